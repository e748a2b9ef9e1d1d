"""What `import thfuse_sam as th` offers; `thfuse_sam/__init__.py` lists the names and loads each when it is used."""
