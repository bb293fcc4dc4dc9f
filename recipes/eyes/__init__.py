"""Eyes and decision that part 12 starts from: two pretrained towers, their maps, a threshold from references."""
