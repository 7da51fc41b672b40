package reimage

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
	"hatchery/netboot/store"
)

// Options are what a [Service] works with.
type Options struct {
	Node     *nodefile.Node  // the controller's own, with all targets
	Identity *enrol.Identity // the controller's
	Store    *store.Store    // has the slots' images
	// Dir is where the records and the lists of pieces are; it is made.
	Dir string
	// Port is where nodes listen; 0: enrol.Port.
	Port uint16
	// Cycle switches a slot off and on; nil where that cannot be done. It is asked for
	// where a node is silent that writes its card. What is off by hand it leaves off.
	Cycle func(ctx context.Context, slot int) error
	// Least gives the least generation of a slot's certificate that is not refused, as far
	// as the controller has heard; 0 where it has not. It does not wait; nil: what node.json
	// says is all that is known.
	Least func(slot int) int
	Log   *slog.Logger

	Times Times
}

// Times are how long is waited for what. The zero value of each is what is right for a
// cluster.
type Times struct {
	// Call is how long one call to a node's agent may take. Default: a minute; a Zero's
	// handshake takes seconds.
	Call time.Duration
	// Reach is how long the agent is tried to be reached. Default: 3 minutes.
	Reach time.Duration
	// Retry is the time between two tries. Default: 5 seconds.
	Retry time.Duration
	// Rearm is how long after it was armed a node may go on in the same boot. Default:
	// 3 minutes: systemd waits 90 seconds for what does not stop.
	Rearm time.Duration
	// Silent is how long nothing may be heard of a node that writes its card. Default:
	// 15 minutes.
	Silent time.Duration
	// Failing is how long a node may say that it fails, before that is told as what an
	// operation ends with. Default: 10 minutes.
	Failing time.Duration
	// Rescue is how long a node that was started over its link, to go on with its card, may
	// take to be heard of. Default: 5 minutes.
	Rescue time.Duration
	// Left is for how long nobody may be at work with a card, until it is taken for left as
	// it is. Default: 2 minutes.
	Left time.Duration
}

func (t Times) withDefaults() Times {
	for _, d := range []struct {
		value *time.Duration
		usual time.Duration
	}{
		{&t.Call, time.Minute},
		{&t.Reach, 3 * time.Minute},
		{&t.Retry, 5 * time.Second},
		{&t.Rearm, 3 * time.Minute},
		{&t.Silent, 15 * time.Minute},
		{&t.Failing, 10 * time.Minute},
		{&t.Rescue, 5 * time.Minute},
		{&t.Left, 2 * time.Minute},
	} {
		if *d.value <= 0 {
			*d.value = d.usual
		}
	}
	return t
}

// The bounds of an operation.
const (
	maxArms   = 3 // how often a node is armed that starts into its root
	maxCycles = 2 // how often a silent one is switched off and on
	// maxRevivals is the same for a node whose card is begun and that nobody waits for, in
	// all until somebody does.
	maxRevivals = 3
	// maxAttempts is how often a node may begin again before that is an error. It goes
	// on all the same.
	maxAttempts = 8
	// maxFailures is how often a node may say that it fails, once Times.Failing is over,
	// and maxFaults how often where it is for its card.
	maxFailures, maxFaults = 8, 3
)

func (o *Options) check() error {
	switch {
	case o.Node == nil || !o.Node.IsController():
		return errors.New("cards are written from the controller only")
	case o.Identity == nil || o.Identity.Peer.Slot != 0:
		return errors.New("cards are written with the controller's identity only")
	case o.Store == nil || o.Dir == "":
		return errors.New("cards are written from a store, and with a folder to remember them")
	}
	if o.Port == 0 {
		o.Port = enrol.Port
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Times = o.Times.withDefaults()
	return nil
}
