package node

// ReimageProgram is what writes a node's card anew (cmd/reimage), in the initramfs of a
// card's image.
const ReimageProgram = "/reimage"

// What it ends with.
const (
	// ReimageWhole: the card holds the image, and the node starts from it.
	ReimageWhole = 0
	// ReimageUntouched: nothing was written, so the system on the card is started.
	ReimageUntouched = 3
)
