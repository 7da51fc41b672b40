// Package swarm is what hatchery asks of a node's Docker Engine: the state of
// its swarm, joining and leaving, and on the controller the list of nodes. It
// is the only package that imports Docker's client, so that the client's
// successor module is a change of import path here.
package swarm
