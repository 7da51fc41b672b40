// Package controller is what `hatchery serve` is: the service on the
// controller that lets nodes into the swarm and keeps the list of nodes tidy.
//
//   - It answers the nodes' calls (package enrol): what time it is, whether and
//     how to join, where everybody stands. Who calls is read from the client's
//     certificate, and has to come from that slot's address and port.
//   - It owns the nodes' entries: labels, availability, and that a slot has one
//     entry, whatever was rebuilt how often ([Serve] tells the order).
//   - It makes the join token worthless once nobody is joining.
//   - It keeps the generations below which a slot's certificate is refused, and
//     tells of two cards with the identity of one slot.
//   - It answers the command line on a socket of its own ([Dial]).
//
// What has to outlive it lies in one file, registry.json, which is part of the
// swarm's backups. Everything else it finds again by asking the engine and
// listening to the nodes, so that it can be killed at any point.
package controller
