package founding

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/nodefile"
	"hatchery/internal/swarmbackup"
)

// Backups are the swarm's backups that the nodes keep: Keepers are.
type Backups interface {
	// Offers asks nodes which backups they have: the newest first. answered
	// are the slots that answered, with or without one. What a node does
	// wrong is no error: it has not answered.
	Offers(ctx context.Context, nodes []nodefile.Target) (offers []Backup, answered []int, err error)
}

// A Backup is one that nodes keep.
type Backup interface {
	// ID is the backup's own, whichever node has it.
	ID() string
	// String is the backup for people: when it was taken, and who keeps it.
	String() string
	// Restore makes the folder swarm in Docker's, which has none, whole or not
	// at all. The engine is stopped. What else is in the backup is restored
	// too; keepState says that what the service has is newer, and stays.
	Restore(ctx context.Context, dockerRoot string, keepState bool) error
}

// Keepers are nodes that are asked as package swarmbackup does.
type Keepers struct {
	Client *swarmbackup.Client
	// Identity is the controller's: backups are sealed to it.
	Identity *enrol.Identity
	// Folder is where a backup lies while it is restored: /var/lib/hatchery.
	Folder string
	// ServiceState is the folder of the controller's service; "": what a
	// backup has of it is left out.
	ServiceState string
}

// Offers asks nodes which backups they have.
func (k *Keepers) Offers(ctx context.Context, targets []nodefile.Target) (offers []Backup, answered []int, err error) {
	var nodes []swarmbackup.Node
	for _, t := range targets {
		nodes = append(nodes, swarmbackup.Node{Name: t.Name, Slot: t.Slot, Addr: t.Address})
	}
	survey := k.Client.Survey(ctx, nodes)
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	for _, n := range survey.Answered {
		answered = append(answered, n.Slot)
	}
	for _, o := range survey.Offers {
		offers = append(offers, &offered{k, o})
	}
	return offers, answered, nil
}

// offered is a backup that nodes say they have.
type offered struct {
	*Keepers
	offer swarmbackup.Offer
}

func (o *offered) ID() string { return o.offer.ID }

func (o *offered) String() string {
	var names []string
	for _, n := range o.offer.Nodes {
		names = append(names, n.Name)
	}
	return fmt.Sprintf("the backup of %s that %s has", o.offer.Label.Taken.UTC().Format(time.RFC3339), strings.Join(names, ", "))
}

// Restore fetches the backup from the first node that gives it whole, and puts
// it in its place.
func (o *offered) Restore(ctx context.Context, dockerRoot string, keepState bool) error {
	place := filepath.Join(o.Folder, "restore"+swarmbackup.Suffix)
	defer os.Remove(place)
	var errs []error
	for _, node := range o.offer.Nodes {
		err := o.Client.Get(ctx, node, o.offer.ID, place, &o.offer.Label)
		if err == nil {
			return o.restore(ctx, place, dockerRoot, keepState)
		}
		if ctx.Err() != nil {
			return err
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (o *offered) restore(ctx context.Context, place, dockerRoot string, keepState bool) error {
	f, err := os.Open(place)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = swarmbackup.Restore(ctx, f, swarmbackup.Target{
		Identity:   o.Identity,
		DockerRoot: dockerRoot,
		State:      o.ServiceState,
		KeepState:  keepState,
	})
	return err
}
