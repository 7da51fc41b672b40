// Package hatchery is the root of the house and holds nothing but this map of
// it. Four floors, and no import runs up:
//
//	cmd/…                      the programs, thin
//	imagebuilder, controller   what they are for
//	netboot, firstboot, overlays
//	internal/…                 the ground floor
//
// The node's programs (firstboot, netboot, controller, cmd/nodeinit) never
// import imagebuilder. house_test.go guards both rules; docs/architecture.md
// tells the data's way through the rooms.
package hatchery
