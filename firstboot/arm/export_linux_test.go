package arm

// FindAt is Find with another root, and other places of the boot partition.
var FindAt = find
