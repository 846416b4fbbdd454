"""Dataset formats: TFRecord shards, folders of images, and the bundled digits."""
