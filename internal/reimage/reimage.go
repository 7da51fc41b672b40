// Package reimage is what a node's card is written anew by, in place: what the
// controller and the node say to each other, and the order that lies on the card
// while it is being written.
//
// A node with a card in it never boots over USB, so it has to write its card by
// itself: the controller has its agent arm it ([PathArm]), it starts from its own boot
// partition into memory (cmd/nodeinit, cmd/reimage), asks the controller which image it
// is to have ([PathImage]), compares its card with the list of the image's pieces,
// fetches those that differ ([PathPieces]), writes, reads back, and starts into it.
package reimage

import (
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// The controller's calls, for a slot that was armed. All are served on enrol.Port
// to the slot itself, over its certificate.
const (
	// PathImage is GET: the Image that the slot is to have. 404 means that nothing is
	// to be written (any more), 503 with Retry-After that the list of its pieces is
	// being made. A node whose card is begun says so with ?begun=1, and gets an
	// image even of a controller that has forgotten why.
	PathImage = "/v1/image"
	// QueryBegun is the query's name for that.
	QueryBegun = "begun"
	// QueryLook is the agent's: ?look=1 asks whether there is anything to be written,
	// and is no sign that it has begun.
	QueryLook = "look"
	// PathDigests is GET PathImage + "/{digest}/digests": the list of pieces, as
	// [AppendList] makes it; {digest} is Image.List. 404 means that the image is
	// another one now: begin again.
	PathDigests = "/digests"
	// PathPieces is POST PathImage + "/{digest}/pieces" with a Wanted as the body: the
	// bytes of the pieces in that order, one after the other, nothing between.
	PathPieces = "/pieces"
	// PathProgress is POST PathImage + "/{digest}/progress" with a Progress as the body.
	PathProgress = "/progress"
)

// PathArm is a node's: POST with an Arm as the body, of the controller alone. The node
// answers 202 with an Armed, and starts anew into cmd/reimage a moment after that.
const PathArm = "/v1/arm"

// Piece is the size of an image's pieces in bytes. The last may be shorter.
const Piece = 128 << 10

// An Image is what a slot's card is to hold.
type Image struct {
	Size int64  `json:"size"` // bytes
	List string `json:"list"` // SHA-256 of the list of its pieces, lower-case hex
	// Boot is the boot partition's place in bytes: it is written last, its first
	// sector after everything else.
	BootStart int64 `json:"boot_start"`
	BootSize  int64 `json:"boot_size"`
	// Operation is the controller's name for what is being done.
	Operation string `json:"operation,omitempty"`
}

// A Wanted names pieces by their numbers, each with how many follow on it.
type Wanted struct {
	Runs [][2]int64 `json:"runs"` // first, count
}

// MaxWanted is the most pieces of one call.
const MaxWanted = 1024

// DigestSize is that of a piece's digest in a list, a SHA-256, in bytes. A piece that
// the image's file systems do not use has 32 zero bytes: what the card has there stays.
const DigestSize = 32

// A Progress is where a node stands with its card.
type Progress struct {
	State  string `json:"state"` // one of the states below
	Done   int64  `json:"done"`  // bytes, of
	Total  int64  `json:"total"`
	Detail string `json:"detail,omitempty"` // why it failed
	// Fault is FaultCard where it failed for the card itself, "" for anything else.
	Fault string `json:"fault,omitempty"`
	// Attempt counts the starts into cmd/reimage since the card was armed.
	Attempt int `json:"attempt"`
}

// The states of a node whose card is written.
const (
	Comparing = "comparing"
	Writing   = "writing"
	Verifying = "verifying"
	Booting   = "booting" // the boot partition is being written: a moment
	Done      = "done"    // it starts into the new image now
	Failed    = "failed"  // it tries again
)

// FaultCard is the Fault of a card that cannot be read, or does not keep what is written
// to it.
const FaultCard = "card"

// An Arm is what the controller has a node's agent do.
type Arm struct {
	Operation string `json:"operation"`
}

// Armed is a node's answer to an Arm.
type Armed struct {
	BootID string `json:"boot_id"` // of the boot that ends now
}

// What lies in a card's boot partition, beside what boots. Both prepared files are the
// builder's; arming keeps what they take the place of.
const (
	PreparedConfig  = "hatchery/config.txt"
	PreparedCmdline = "hatchery/cmdline.txt"
	SavedConfig     = "hatchery/saved-config.txt"
	SavedCmdline    = "hatchery/saved-cmdline.txt"
)

// An Order lies on the card from arming until the card is whole. It is all that
// cmd/reimage knows, since the root file system is what is written over.
type Order struct {
	Version    int       `json:"version"` // OrderVersion
	Operation  string    `json:"operation"`
	Slot       int       `json:"slot"`
	Cluster    string    `json:"cluster"`
	Controller string    `json:"controller"` // its address on the slots' network
	Address    string    `json:"address"`    // the node's own there, with its prefix length
	Gadget     string    `json:"gadget,omitempty"`
	Time       time.Time `json:"time"` // when it was armed: a Zero has no clock
	// Key, Certificate and CA are the node's identity, as PEM.
	Key         string `json:"key"`
	Certificate string `json:"certificate"`
	CA          string `json:"ca"`
	Attempt     int    `json:"attempt"`
}

// OrderVersion is that of Order's form.
const OrderVersion = 1

// Where the order lies: between the partition table and the first partition, where
// no file system is. Raspberry Pi OS' first partition begins at 4 MiB (older ones at
// 4 MB). OrderPlace and OrderSize are in bytes.
const (
	OrderPlace = 1 << 20
	OrderSize  = 64 << 10
)

// orderMagic begins an order on a card.
const orderMagic = "hatchery order 1\n"

// ErrNoOrder says that no order lies on the card.
var ErrNoOrder = errors.New("the card holds no order to be written anew")

// ParseDigest reads an Image's List.
func ParseDigest(text string) (d [DigestSize]byte, err error) {
	b, err := hex.DecodeString(text)
	if err != nil || len(b) != len(d) || hex.EncodeToString(b) != text {
		return d, fmt.Errorf("%.70q is no SHA-256 in lower-case hexadecimal", text)
	}
	copy(d[:], b)
	return d, nil
}
