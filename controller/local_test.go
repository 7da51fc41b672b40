package controller_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/controller"
	"hatchery/internal/enrol"
)

type backups struct {
	c       *cluster
	content string
	fails   error // after the content
}

func (b *backups) Soon() { b.c.set(func() { b.c.soon++ }) }
func (b *backups) View() *enrol.BackupView {
	return &enrol.BackupView{Taken: time.Unix(1, 0).UTC(), Bytes: 7, Nodes: []string{"p1"}}
}
func (b *backups) Write(_ context.Context, w io.Writer) error {
	if _, err := io.WriteString(w, b.content); err != nil {
		return err
	}
	return b.fails
}

func TestBackups(t *testing.T) {
	c := newCluster(t, 1)
	b := &backups{c: c, content: strings.Repeat("sealed", 100_000)}
	c.options.Backups = b
	c.start()
	client := controller.Dial(c.options.Socket)
	var out strings.Builder
	if err := client.Backup(t.Context(), &out); err != nil || out.String() != b.content {
		t.Errorf("the backup is %d bytes, %v", out.Len(), err)
	}
	if v := c.view(); v.Backup == nil || v.Backup.Bytes != 7 {
		t.Errorf("the view has the backup %+v", v.Backup)
	}
	// One is taken soon after a node has joined: the controller's own first, which is
	// there by itself, then each that comes.
	asked := func(least int) {
		t.Helper()
		eventually(t, func() error {
			n := 0
			c.set(func() { n = c.soon })
			if n < least {
				return fmt.Errorf("%d backups were asked for, not %d", n, least)
			}
			return nil
		})
	}
	asked(1)
	c.card(1).up()
	asked(2)
	b.fails = errors.New("the disk is full")
	if err := client.Backup(t.Context(), io.Discard); err == nil || !strings.Contains(err.Error(), "the disk is full") {
		t.Errorf("a backup that breaks off gives %v", err)
	}
	b.content = ""
	if err := client.Backup(t.Context(), io.Discard); err == nil || !strings.Contains(err.Error(), "the disk is full") {
		t.Errorf("a backup that does not begin gives %v", err)
	}
}

func TestNoBackups(t *testing.T) {
	c := newCluster(t, 1).start()
	if err := controller.Dial(c.options.Socket).Backup(t.Context(), io.Discard); err == nil || !strings.Contains(err.Error(), "no backups") {
		t.Error(err)
	}
}

func TestEvents(t *testing.T) {
	c := newCluster(t, 1).start()
	client := controller.Dial(c.options.Socket)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	seen := make(chan controller.Event, 1000)
	done := make(chan error, 1)
	enough := errors.New("enough")
	go func() {
		done <- client.Events(ctx, true, func(e controller.Event) error {
			seen <- e
			if e.Kind == controller.EventNode && strings.Contains(e.Detail, "p1: node node1 is active") {
				return enough
			}
			return nil
		})
	}()
	<-seen // it listens
	c.card(1).up()
	if err := <-done; !errors.Is(err, enough) {
		t.Fatal(err)
	}
	close(seen)
	var kinds []string
	for e := range seen {
		if of1 := strings.HasPrefix(e.Detail, "p1: "); e.Time.IsZero() || e.Detail == "" || of1 != (e.Slot == 1) {
			t.Errorf("the event %+v", e)
		}
		kinds = append(kinds, e.Kind)
	}
	if have := strings.Join(kinds, " "); !strings.Contains(have, "join") || !strings.Contains(have, "step") || !strings.HasSuffix(have, "node") {
		t.Errorf("the events are %s", have)
	}
	// Who comes later gets what was.
	n := 0
	if err := client.Events(ctx, false, func(controller.Event) error { n++; return nil }); err != nil || n < len(kinds) {
		t.Errorf("%d events are kept, %v", n, err)
	}
	// The end of the service ends those who follow.
	listens := make(chan struct{}, 1000)
	go func() {
		done <- client.Events(ctx, true, func(controller.Event) error { listens <- struct{}{}; return nil })
	}()
	<-listens
	c.end()
	if err := <-done; err == nil {
		t.Error("who follows is not told that the service has ended")
	}
}

func TestTheSocket(t *testing.T) {
	c := newCluster(t, 1)
	// One that a killed service left behind.
	if err := os.MkdirAll(filepath.Dir(c.options.Socket), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.options.Socket, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c.start()
	info, err := os.Stat(c.options.Socket)
	if err != nil || info.Mode() != os.ModeSocket|0o600 {
		t.Errorf("the socket is %v, %v", info.Mode(), err)
	}
	c.end()
	if _, err := os.Stat(c.options.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
	if _, err := controller.Dial(c.options.Socket).Cluster(t.Context()); !errors.Is(err, controller.ErrNotServed) || !strings.Contains(err.Error(), "systemctl") {
		t.Errorf("without a service: %v", err)
	}
}
