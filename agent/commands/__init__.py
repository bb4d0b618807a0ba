"""What each command does, one module per topic. A handler takes the parsed arguments and returns an Answer."""
