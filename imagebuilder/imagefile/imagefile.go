// Package imagefile is image files as people have them, as sources of what is
// written to a card: raw or compressed, with a block map beside them or
// without.
package imagefile
