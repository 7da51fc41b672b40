package slots

// State is where a slot stands.
type State string

// The states of a slot. The first seven after Unknown are its way up.
const (
	Unknown  State = "unknown"  // it had power before anybody looked, and was not heard of yet
	Off      State = "off"      // no power
	ROM      State = "rom"      // it has power; its boot ROM is awaited on USB
	Bootcode State = "bootcode" // its boot ROM is there and is given bootcode.bin
	Files    State = "files"    // it asks for boot files
	Link     State = "link"     // it has its kernel; first its network link is awaited, then that it opens its root
	Root     State = "root"     // it has its root file system; its agent's word is awaited
	Ready    State = "ready"    // its agent said that it is ready
	Lost     State = "lost"     // it had its root, and lost the link or the root's connection
	Failed   State = "failed"   // given up
	Card     State = "card"     // it booted from a card, so it is left alone
	Rescue   State = "rescue"   // its card is half written: it is started over USB to go on writing it
)

// States are all of them, in the order of a boot.
func States() []State {
	return []State{Unknown, Off, ROM, Bootcode, Files, Link, Root, Ready, Lost, Failed, Card, Rescue}
}

// What a slot that is [Lost] has lost.
const (
	LostLink = "link"
	LostNBD  = "nbd"
)

// How far a slot is that is in [Rescue].
const (
	rescueROM   = "bootcode" // its boot ROM is there
	rescueFiles = "files"    // it asks for boot files
	rescueLink  = "link"     // it has its kernel, and its link is awaited
	rescueWrite = "write"    // its link is up: it writes its card
)
