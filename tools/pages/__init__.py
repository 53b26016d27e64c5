"""What MkDocs builds the documentation of: hand-written pages, and those that the code writes itself."""
