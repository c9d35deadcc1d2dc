"""What has been published, by name."""
