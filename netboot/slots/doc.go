// Package slots knows where each slot of a HAT stands on its way from power to
// a node that is ready, and gets those going again that are stuck.
//
//	off → rom → bootcode → files → link → root → ready
//
// A [Board] holds the slots. Those who see something tell it: power, USB, boot
// files, network links, the root's connections, the nodes' agents. What it
// makes of that is a [Status] per slot, with the last events. Slots that stay
// too long where they are have their power cycled, a few times with growing
// pauses; then they are failed, with the reason, until somebody asks for
// another try or they recover. [Limits.Decide] is that policy, without side
// effects; [Board.Run] carries it out by means of [Power].
package slots
