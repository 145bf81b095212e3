"""Systems: what is trained and how it is looked at, one folder each."""
