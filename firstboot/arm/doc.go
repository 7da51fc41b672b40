// Package arm has a node's card written anew: on the controller's word the agent leaves an
// order on the card (internal/reimage), has the boot partition start cmd/reimage in place
// of the root, and starts the machine again. It takes that back where nothing is to be
// written after all.
//
// The boot partition has no journal, so that what is done to it is so ordered that the
// power may go at any moment:
//
//	saved-config.txt, saved-cmdline.txt   what boots now
//	the order                             between partition table and first partition
//	cmdline.txt                           boots the root, where no initramfs is loaded
//	config.txt                            loads the initramfs: from here on the node is armed
//
// Each file is written beside its place, synced, and renamed. Taking it back goes the other
// way, and the order goes last.
package arm
