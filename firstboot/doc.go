// Package firstboot is the agent of every node: a list of named steps that it
// goes through at every boot, from the USB link to the swarm, for as long as
// the node is up. A step that is done is checked again; one that fails is
// tried again, for ever. "First boot" is only the first time that it finds
// everything to do.
//
// Where it stands is told to state.json, systemd, the journal, the console
// and the controller. None of them can hold it up.
package firstboot
