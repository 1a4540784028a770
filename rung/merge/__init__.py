"""Weight arithmetic: models with the same start become one. A page per method, free of files and folders."""
