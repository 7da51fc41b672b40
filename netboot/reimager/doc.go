// Package reimager writes a node's card anew while nothing of it is in use: it
// compares the card with the list of the pieces of the image that the controller
// has for it, fetches those that differ, writes them and reads them back.
// cmd/reimage runs it, from a node's memory.
//
// # What is written when
//
// Power may go at any moment, and then the card decides what starts next:
//
//   - First everything outside of the boot partition. The boot partition still has
//     what starts cmd/reimage, so a cut leads back here. A mark behind the order says
//     that the card's system is no longer one ([Touched]).
//   - Then the boot partition, all of whose pieces that differ lie in memory by then.
//     Its first sector is zeroed, which makes it one that the boot ROM finds nothing
//     in; everything else of it is written, and read back; its first sector comes
//     last. A cut in between leaves a node that asks for its boot files over USB, as
//     one without a card does: with the same initramfs sent to it (bootfiles.Reimage)
//     it finds the order on its card, and goes on.
//   - The partition table is one sector, and comes with what is outside of the boot
//     partition, as long as that one stays where it is. Where it moves, both places
//     are written last, and the table between.
//   - Last the mark and the order are wiped.
//
// What has been written is compared like everything else after a cut, so nothing is
// fetched twice but what the card had not kept.
package reimager
