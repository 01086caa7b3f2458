"""Other methods of inpainting, to be trained for as many minutes as pixmend: see `__main__`."""
