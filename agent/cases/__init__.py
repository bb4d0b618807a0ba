"""From a file to a durable case: data folders, readers, the split, intake, labels."""
