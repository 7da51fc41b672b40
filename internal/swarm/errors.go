package swarm

import (
	"context"
	"errors"
	"fmt"
	"strings"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/client"

	"hatchery/internal/hearsay"
)

// What an engine refuses, or fails with, as far as a caller does something
// about it. An error that is one of these tells the engine's own words.
var (
	// ErrUnreachable: the engine does not answer on its socket, or went away
	// before it did. Whether it did what was asked is not known.
	ErrUnreachable = errors.New("the Docker Engine does not answer")
	// ErrAlreadyMember: it is part of a swarm, or is joining one right now.
	ErrAlreadyMember = errors.New("already part of a swarm")
	// ErrJoinTimeout: the join takes longer than the engine's 20 s, and goes
	// on in the background. This is no failure.
	ErrJoinTimeout = errors.New("the join goes on in the background")
	// ErrBadToken: the token is not, or no longer, the swarm's.
	ErrBadToken = errors.New("the join token is not valid")
	// ErrCAMismatch: the manager's CA is not the one that the token, or the
	// node's own certificate, was made with: the swarm was made anew.
	ErrCAMismatch = errors.New("the swarm has another CA")
	// ErrCertificateTime: a certificate has expired or is not yet valid. Look
	// at the clock before anything is thrown away.
	ErrCertificateTime = errors.New("a certificate has expired or is not yet valid")
	// ErrNoSigner: the swarm has lost the key of its CA, so that nobody can join
	// and nothing can be set. An engine that is killed while it makes a swarm
	// may come to that: its own certificate is on the disk before the key is.
	ErrNoSigner = errors.New("the key of the swarm's CA is lost")
	// ErrNotManager: only a manager can tell, and this engine is none.
	ErrNotManager = errors.New("not a swarm manager")
	// ErrLastManager: a manager leaves by force only.
	ErrLastManager = errors.New("a manager leaves by force only")
	// ErrNoLeader: the managers have elected none (yet).
	ErrNoLeader = errors.New("the swarm has no leader")
	// ErrConflict: the entry was changed since it was read. Read it again.
	ErrConflict = errors.New("changed by somebody else meanwhile")
	// ErrExists: there is one of that name.
	ErrExists = errors.New("one of that name is there already")
	// ErrInUse: something uses it still.
	ErrInUse = errors.New("something uses it still")
	// ErrNotFound: there is no such node, service, secret …
	ErrNotFound = errors.New("no such node")
	// ErrNodeUp: a node that answers is removed by force only.
	ErrNodeUp = errors.New("the node is not down")
	// ErrLocked: the swarm was locked with a key, which hatchery never does.
	ErrLocked = errors.New("the swarm is locked with a key")
	// ErrNotActive: the engine is not part of a swarm.
	ErrNotActive = errors.New("not part of a swarm")
	// ErrRemoved: the manager has removed this node from the swarm.
	ErrRemoved = errors.New("removed from the swarm")
	// ErrManagerUnreachable: the engine cannot reach the manager, or not in
	// its 5 s.
	ErrManagerUnreachable = errors.New("the manager cannot be reached")
	// ErrAddress: the address that was given is not one of this machine (yet),
	// or its port is taken.
	ErrAddress = errors.New("the address cannot be used")
)

// meanings are the engine's words, by which alone these errors can be told
// apart: most of them come as status 503 or 500. Read in moby
// daemon/cluster/errors.go, cluster.go, listen_addr.go and swarmkit
// ca/server.go, ca/certificates.go, ca/auth.go, manager/state/store/memory.go,
// manager/controlapi/node.go; the tests provoke them. The order matters: a
// message may wrap another.
var meanings = []struct {
	words string
	err   error
}{
	{"is already part of a swarm", ErrAlreadyMember},
	{"Timeout was reached before node joined", ErrJoinTimeout},
	{"valid join token is necessary", ErrBadToken},
	{"invalid join token", ErrBadToken},
	{"does not match fingerprint", ErrCAMismatch},
	{"certificate signed by unknown authority", ErrCAMismatch},
	{"certificates have expired", ErrCertificateTime},
	{"certificate has expired or is not yet valid", ErrCertificateTime},
	{"not valid before", ErrCertificateTime},
	{"not valid after", ErrCertificateTime},
	{"needs to be unlocked", ErrLocked},
	{"needs a valid unlock key", ErrLocked},
	{"there must be at least one valid, reachable external CA", ErrNoSigner},
	{"was removed from swarm", ErrRemoved},
	{"does not have a leader", ErrNoLeader},
	{"participating as a manager", ErrLastManager},
	{"is not a swarm manager", ErrNotManager},
	{"is not part of a swarm", ErrNotActive},
	{"update out of sequence", ErrConflict},
	{"is ambiguous", ErrNotFound}, // several have that host name
	{"is not down and can't be removed", ErrNodeUp},
	{"already exists", ErrExists},
	{"in use by", ErrInUse},
	{"could not find local IP address", ErrAddress},
	{"must specify a listening address", ErrAddress},
	{"cannot assign requested address", ErrAddress},
	{"address already in use", ErrAddress},
	{"connection refused", ErrManagerUnreachable},
	{"no route to host", ErrManagerUnreachable},
	{"network is unreachable", ErrManagerUnreachable},
	{"i/o timeout", ErrManagerUnreachable},
	{"connection error", ErrManagerUnreachable},
	{"context deadline exceeded", ErrManagerUnreachable},
}

// Meaning is which of the errors above an engine's words stand for, nil if
// none. It is also for Info's Error and for logs.
func Meaning(words string) error {
	for _, m := range meanings {
		if strings.Contains(words, m.words) {
			return m.err
		}
	}
	return nil
}

// Err is Info's Error as an error that is one of the errors above, where it
// stands for one; nil without one.
func (i Info) Err() error {
	if i.Error == "" {
		return nil
	}
	return &engineError{doing: "Docker says that its swarm is in state " + string(i.State),
		words: hearsay.WithoutSecrets(i.Error), kind: Meaning(i.Error)}
}

// An engineError is an answer of the engine, in its words.
type engineError struct {
	doing string
	words string
	kind  error // one of the errors above, or nil
	cause error // a context's, or nil
}

func (e *engineError) Error() string { return e.doing + ": " + e.words }

func (e *engineError) Unwrap() []error {
	var errs []error
	for _, err := range []error{e.kind, e.cause} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// failed makes an error of what the client gave for a request. ctx is the
// caller's.
func failed(ctx context.Context, doing string, err error) error {
	if err == nil {
		return nil
	}
	if cause := ctx.Err(); cause != nil {
		return fmt.Errorf("%s: %w", doing, cause)
	}
	e := &engineError{doing: doing, words: hearsay.WithoutSecrets(strings.TrimPrefix(err.Error(), "Error response from daemon: "))}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		e.kind, e.words = ErrUnreachable, "no answer from Docker in time (see `journalctl -u docker`)"
	case client.IsErrConnectionFailed(err):
		e.kind = ErrUnreachable
	default:
		e.kind = Meaning(err.Error())
		if errors.Is(err, ErrNotFound) || e.kind == nil && cerrdefs.IsNotFound(err) {
			e.kind = ErrNotFound
		}
	}
	return e
}
