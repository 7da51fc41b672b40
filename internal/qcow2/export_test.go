package qcow2

// CreateWith is Create with another cluster size, given by its logarithm.
var CreateWith = create
