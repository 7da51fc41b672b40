// Package reimage has nodes' cards written anew, in place: the controller's end of
// internal/reimage. A node with a card in it never boots over USB, so that it has to write
// its card by itself; the controller arms it, says what the card is to hold, streams the
// pieces that differ, and takes the card for written when the node's agent was heard from a
// new boot.
//
// # A slot's way
//
//	arming   the record is kept; the node's agent is asked to leave the order on its card
//	armed    the agent has said that it restarts
//	asked    cmd/reimage runs, and has asked for the image
//	writing  it has fetched pieces: from here on the card is neither this nor that
//	done     the card is whole, by the node's word; its agent was not heard yet
//
// and the record is gone when the agent was heard. The record survives the service, so that
// a node that begins again (its power was cut, or the controller's) finds the same image.
// Where the service lost its record, a node whose card is begun still gets what the slot is
// to have.
//
// Until it is writing, the card is what it was: a Cancel ends the record, and so does going
// back to what the card holds. A record that nobody is at work with ends by itself then,
// once the node runs as before or is not heard of; a node that asks after that is told that
// nothing is to be written. From then on it is written to its end, whoever waits for it.
//
// A card that is written with something else before its node was heard from what it was
// written with last begins at arming again. The record keeps what it holds by then
// (kept.Held), so that it is known if the node cannot be armed.
package reimage
