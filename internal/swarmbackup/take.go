package swarmbackup

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"hatchery/internal/atomicfile"
	"hatchery/internal/enrol"
	"hatchery/internal/sealed"
)

// Suffix ends the name of a backup's file.
const Suffix = ".swarm"

// A Source is what a backup is taken of.
type Source struct {
	Identity   *enrol.Identity  // the controller's: its key seals, and the cluster is its
	DockerRoot string           // the engine's folder, /var/lib/docker
	State      string           // the service's folder; "": none
	Now        func() time.Time // nil: time.Now
}

// tries is how often a folder that moves is read again.
const tries = 20

// Take writes a backup to place, whole or not at all, while the engine runs
// and writes. ErrNoSwarm: there is nothing to back up.
func Take(ctx context.Context, place string, src Source) (*Label, error) {
	root := filepath.Join(src.DockerRoot, "swarm")
	if _, err := os.Stat(root); errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot back up: %w: there is no %s", ErrNoSwarm, root)
	}
	tornAt := int64(-1)
	var last error
	for range tries {
		label, torn, err := take(ctx, place, src, root, tornAt)
		if err == nil {
			return label, nil
		}
		if !errors.Is(err, errMoved) && !errors.Is(err, errTorn) {
			return nil, fmt.Errorf("cannot back up the swarm: %w", err)
		}
		last, tornAt = err, torn
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(settle):
		}
	}
	return nil, fmt.Errorf("cannot back up the swarm, %d times: %w (where the engine is well, this passes; else see its log)", tries, last)
}

// take is one try. tornAt is where the last try found the log's end torn; the try
// gives where it found it.
func take(ctx context.Context, place string, src Source, root string, tornAt int64) (*Label, int64, error) {
	v, err := look(root)
	if err != nil {
		return nil, tornAt, err
	}
	// A record that is being written is whole at the next look. One that stays
	// as it is is damage, and the log behind it would be lost.
	if v.tornAt >= 0 && v.tornAt <= tornAt {
		return nil, tornAt, fmt.Errorf("%s: at %d: %w", filepath.Join(root, walDir), v.tornAt, errTorn)
	} else if v.tornAt >= 0 && tornAt < 0 {
		return nil, v.tornAt, errTorn
	}
	state, err := stateParts(src.State)
	if err != nil {
		return nil, tornAt, err
	}
	now := time.Now
	if src.Now != nil {
		now = src.Now
	}
	label := v.label
	label.Format, label.Cluster, label.Taken, label.Raw = format, src.Identity.Peer.Cluster, now().UTC(), rawSize(root)
	f, err := atomicfile.Create(place, 0o600)
	if err != nil {
		return nil, tornAt, err
	}
	defer f.Discard()
	if err := write(ctx, f, src.Identity.Key(), label, append(v.parts, state...)); err != nil {
		return nil, tornAt, err
	}
	switch same, err := v.same(root); {
	case err != nil:
		return nil, tornAt, err
	case !same:
		return nil, tornAt, errMoved
	}
	return &label, tornAt, f.Commit()
}

func write(ctx context.Context, w io.Writer, key *ecdsa.PrivateKey, label Label, parts []part) error {
	public, err := json.Marshal(label)
	if err != nil {
		return err
	}
	buffered := bufio.NewWriter(w)
	seal, err := sealed.NewWriter(buffered, key, public)
	if err != nil {
		return err
	}
	// What is left to gain is in zeros and text, which the quickest level finds too.
	zip, err := gzip.NewWriterLevel(seal, gzip.BestSpeed)
	if err != nil {
		return err
	}
	archive := tar.NewWriter(zip)
	for _, p := range parts {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		header := &tar.Header{Typeflag: tar.TypeReg, Name: p.name, Size: p.size, Mode: 0o600, Format: tar.FormatPAX}
		if err := archive.WriteHeader(header); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if err := p.copyTo(archive); err != nil {
			return err
		}
	}
	for _, end := range []func() error{archive.Close, zip.Close, seal.Close, buffered.Flush} {
		if err := end(); err != nil {
			return err
		}
	}
	return nil
}

// copyTo writes the part's content, which is errMoved where it is no longer
// what was looked at.
func (p *part) copyTo(w io.Writer) error {
	if p.data != nil {
		_, err := w.Write(p.data)
		return err
	}
	sum := sha256.New()
	counted := &counter{w: io.MultiWriter(w, sum)}
	var err error
	if p.log != nil {
		err = p.log.writeTo(counted)
	} else {
		_, err = readFile(p.path, func(r io.Reader) (int64, error) { return io.Copy(counted, io.LimitReader(r, p.size)) })
	}
	// More than was announced is refused by the archive.
	if errors.Is(err, errMoved) || errors.Is(err, tar.ErrWriteTooLong) || err == nil && (counted.n != p.size || [sha256.Size]byte(sum.Sum(nil)) != p.sum) {
		return errMoved
	}
	if err != nil {
		return fmt.Errorf("cannot copy %s: %w", p.name, err)
	}
	return nil
}
