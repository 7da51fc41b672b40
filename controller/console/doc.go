// Package console keeps what the nodes say on their serial consoles, and lets
// a person talk to one.
//
// A node's USB gadget has a serial port beside its network link; on the
// controller it is /dev/ttypiN. The service reads each of them all the time, so
// that what a node said before it hung is there when somebody asks, and so that
// no node waits for a reader. One person at a time types; as many as like look
// on.
package console
