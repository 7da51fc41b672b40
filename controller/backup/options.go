package backup

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarmbackup"
)

// Dir is where the newest backup lies on the controller: where a node has those
// that it keeps.
const Dir = nodefile.StateDir + "/" + nodefile.BackupsDir

// Options are what a [Runner] works with.
type Options struct {
	Identity   *enrol.Identity // the controller's
	DockerRoot string          // /var/lib/docker
	StateDir   string          // the service's folder, which is backed up with the swarm
	Dir        string          // "" is Dir; not inside StateDir
	// Nodes gives the nodes that are up now. It is asked often.
	Nodes func() []swarmbackup.Node
	// Changes subscribes to what changes in the swarm, as swarm.Engine.Events
	// does: the channel is closed when no more will come, and asked for anew.
	Changes func(ctx context.Context) (<-chan struct{}, error)
	// Copies is how many nodes should have a backup; 0: two. A cluster of one
	// slot says one.
	Copies int
	Client *swarmbackup.Client // nil: one with the identity
	Times  Times
	Log    *slog.Logger
}

// Times are how long is waited for what. The zero value of each is what is
// right for a cluster.
type Times struct {
	// Quiet is how long the swarm must not have changed before it is backed
	// up. Default: 30 seconds.
	Quiet time.Duration
	// Most is the time between two backups of a swarm that changes all the time.
	// Default: 5 minutes.
	Most time.Duration
	// Soon is how long after Runner.Soon there is a backup. Default: 5 seconds.
	Soon time.Duration
	// Retry is how long after a failure the next try comes, and how often the
	// nodes are looked at for some that have no backup yet. Default: 30 seconds.
	Retry time.Duration
	// Survey is how often the nodes are asked what they really keep.
	// Default: an hour.
	Survey time.Duration
}

func (t Times) withDefaults() Times {
	for _, d := range []struct {
		value *time.Duration
		usual time.Duration
	}{
		{&t.Quiet, 30 * time.Second},
		{&t.Most, 5 * time.Minute},
		{&t.Soon, 5 * time.Second},
		{&t.Retry, 30 * time.Second},
		{&t.Survey, time.Hour},
	} {
		if *d.value <= 0 {
			*d.value = d.usual
		}
	}
	return t
}

func (o *Options) check() error {
	if o.Dir == "" {
		o.Dir = Dir
	}
	switch {
	case o.Identity == nil || o.Identity.Peer.Slot != 0:
		return errors.New("backups need the controller's identity")
	case o.DockerRoot == "" || o.Nodes == nil:
		return errors.New("backups need the engine's folder and the nodes")
	}
	if rel, err := filepath.Rel(o.StateDir, o.Dir); o.StateDir != "" && err == nil && rel != ".." && !strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
		return errors.New("the folder for backups lies inside of what is backed up: " + o.Dir)
	}
	if o.Copies <= 0 {
		o.Copies = 2
	}
	if o.Client == nil {
		o.Client = &swarmbackup.Client{Identity: o.Identity}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Times = o.Times.withDefaults()
	return nil
}
