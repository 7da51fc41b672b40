package flash

import (
	"time"

	"hatchery/internal/progress"
)

// Options say how an image is put onto a card.
type Options struct {
	// Cluster and Target name the image: in the note that lies on an unfinished
	// card, and to Progress. An image that is no cluster's has a Target only,
	// its file's name.
	Cluster, Target string

	Mode     Mode
	NoVerify bool // the data is not read back
	Grow     bool // an MBR's last partition gets the rest of the card

	// InFlight is how many reads or writes the card has to do at once; 0 is 4.
	InFlight int
	// Patience is how long an operation of the card may take to end after the
	// context did, before Write leaves it behind; 0 is five seconds.
	Patience time.Duration

	Progress progress.Reporter // nil tells nobody
}

// A Mode says what is written.
type Mode string

// The modes.
const (
	// Auto is Delta where the card holds an image of hatchery's or an unfinished
	// one, else Full.
	Auto Mode = ""
	// Full writes all that the image holds.
	Full Mode = "full"
	// Delta reads the card first and writes what differs.
	Delta Mode = "delta"
)

const (
	defaultInFlight = 4
	defaultPatience = 5 * time.Second
)

// A Result says what was done to a card.
type Result struct {
	Before Holding `json:"before"` // what the card held
	Mode   Mode    `json:"mode"`   // Full or Delta
	// Untouched: the card held the image already, nothing was written.
	Untouched bool `json:"untouched"`

	// In bytes.
	Mapped    int64 `json:"mapped"`    // what the image holds
	Compared  int64 `json:"compared"`  // read before anything was written
	Written   int64 `json:"written"`   // of the image; notes and probes do not count
	Verified  int64 `json:"verified"`  // read back
	Discarded int64 `json:"discarded"` // told to the card as not needed

	// Discard is "done", "unsupported", "failed", or "" where it was not tried.
	Discard string `json:"discard,omitempty"`
	// Rewritten are the ranges that had to be written twice.
	Rewritten []Extent `json:"rewritten,omitempty"`
	// Grown is the partition that got the rest of the card; NotGrown is why
	// none did.
	Grown    *Grown `json:"grown,omitempty"`
	NotGrown string `json:"not_grown,omitempty"`

	Seconds  Seconds  `json:"seconds"`
	Warnings []string `json:"warnings,omitempty"`
}

// An Extent is a part of the card, in bytes.
type Extent struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
}

// Grown is how a partition was changed.
type Grown struct {
	Partition int   `json:"partition"`
	From      int64 `json:"from"` // bytes
	To        int64 `json:"to"`
}

// Seconds is how long each phase took.
type Seconds struct {
	Inspect  float64 `json:"inspect"`
	Compare  float64 `json:"compare"`
	Prepare  float64 `json:"prepare"` // the note, and whether the size is real
	Discard  float64 `json:"discard"`
	Write    float64 `json:"write"` // with the flush
	ReadBack float64 `json:"read_back"`
	Finish   float64 `json:"finish"` // the first block
	Total    float64 `json:"total"`
}
