"""Images and videos: any file to upright sRGB pixels, and frames to files. The only importer of `av`."""
