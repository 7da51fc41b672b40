// Package stack reads swarm stack files, says everything that is wrong with
// them at once, and turns them into what Docker's API takes: the very services,
// networks, secrets and configs that `docker stack deploy` would make of the
// same file, with the label by which `docker stack ls`, `ps` and `rm` know
// them.
//
// compose-go reads the file's model. What swarm mode takes, ignores and refuses
// is in tables of shapes (keys.go), so that all that is wrong is told at once
// and at its place; docker/cli's own judgement comes after it, and tests hold
// both against each other, key by key. docker/cli's conversion is not imported:
// the version that the registry client needs is built on another generation of
// the API's types than the engine's client is. A test compares both ways by
// what a real engine has of them, field by field.
//
// Where this package is stricter than `docker stack deploy`: a variable that is
// not set is an error and never the empty string; files are read from the stack
// file's own folder only; a path of the workstation that would be looked for on
// a node is refused.
//
// A stack file is foreign: its size, what its aliases and ranges of ports grow
// to, and the files that it names are bounded.
package stack
