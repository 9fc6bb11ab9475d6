"""What COCO defines: label files and AP."""
