package controller_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/controller"
	"hatchery/internal/atomicfile"
	"hatchery/internal/swarm"
)

func TestADamagedRegistry(t *testing.T) {
	// A registry that knows of a revocation, and one before it that does too.
	c := newCluster(t, 1).start()
	client := controller.Dial(c.options.Socket)
	if _, err := client.Revoke(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	c.end()
	now, before := filepath.Join(c.options.StateDir, "registry.json"), filepath.Join(c.options.StateDir, "registry.previous.json")
	good, err := os.ReadFile(now)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		summary         string
		now, before     string // the files' content; "-" for none
		fails, complain bool
		revoked         bool
	}{
		{summary: "as it was", now: string(good), before: string(good), revoked: true},
		{summary: "the first one", now: string(good), before: "-", revoked: true},
		{summary: "none", now: "-", before: "-"},
		{summary: "half written", now: string(good[:len(good)/2]), before: string(good), complain: true, revoked: true},
		{summary: "empty", now: "", before: string(good), complain: true, revoked: true},
		{summary: "zeros", now: strings.Repeat("\x00", 4096), before: string(good), complain: true, revoked: true},
		{summary: "gone", now: "-", before: string(good), complain: true, revoked: true},
		{summary: "both damaged", now: "{", before: "{", fails: true},
		{summary: "the only one damaged", now: "{", before: "-", fails: true},
		{summary: "another cluster's", now: strings.Replace(string(good), "homelab", "office", 1), before: "-", fails: true},
		{summary: "of a later version", now: strings.Replace(string(good), `"version": 1`, `"version": 2`, 1), before: "-", fails: true},
		{summary: "a slot that cannot be", now: strings.Replace(string(good), `"p1"`, `"p999"`, 1), before: "-", fails: true},
		{summary: "too large", now: string(good) + strings.Repeat(" ", 20<<20), before: "-", fails: true},
	}
	for _, test := range tests {
		t.Run(test.summary, func(t *testing.T) {
			c := newCluster(t, 1)
			c.options.StateDir = t.TempDir()
			for name, content := range map[string]string{now: test.now, before: test.before} {
				if content == "-" {
					continue
				}
				if err := os.WriteFile(filepath.Join(c.options.StateDir, filepath.Base(name)), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if test.fails {
				err := controller.Serve(t.Context(), c.options)
				if err == nil || !strings.Contains(err.Error(), "registry.json") || !strings.Contains(err.Error(), "remove") {
					t.Errorf("the service ends with %v", err)
				}
				return
			}
			c.start()
			if _, err := c.card(1).ask(); (code(err) == "revoked") != test.revoked {
				t.Errorf("the revoked card is answered %v", err)
			}
			want := ""
			if test.complain {
				want = "controller damaged-state"
			}
			if c.alarms() != want {
				t.Errorf("the alarms are %q", c.alarms())
			}
			c.end()
			c.start() // and what it wrote it can read
		})
	}
}

// A backup is restored under the service, which must not write over it.
func TestARegistryThatIsReplaced(t *testing.T) {
	c := newCluster(t, 1).start()
	if _, err := controller.Dial(c.options.Socket).Revoke(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	c.end()
	place := filepath.Join(c.options.StateDir, "registry.json")
	good, err := os.ReadFile(place)
	if err != nil {
		t.Fatal(err)
	}
	for _, summary := range []string{"a service that has written nothing", "a service that has written"} {
		t.Run(summary, func(t *testing.T) {
			c := newCluster(t, 1).start()
			k := c.card(1)
			k.up()
			c.settled("node1 active ready" + p1Labels)
			c.noted(`"settled": "node1"`) // then nothing is about to be written
			if summary == "a service that has written nothing" {
				c.end()
				if err := os.RemoveAll(c.options.StateDir); err != nil {
					t.Fatal(err)
				}
				// Without a swarm there is nothing to write down by itself, which could
				// come at the moment of the replacing.
				c.engine.with(func() { c.engine.info.State = swarm.Failed })
				c.start()
				k.calls = c.client(k.id, address(1))
			}
			restored := filepath.Join(c.dir, "restored")
			if err := os.Mkdir(restored, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(restored, "registry.json"), good, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(c.options.StateDir, c.options.StateDir+".aside"); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(restored, c.options.StateDir); err != nil {
				t.Fatal(err)
			}
			// Changes, until one is written: a report may be refused for its haste.
			ended := make(chan struct{})
			told := make(chan struct{})
			go func() {
				defer close(told)
				for {
					k.reboot()
					k.tell("link")
					select {
					case <-ended:
						return
					case <-time.After(time.Second):
					}
				}
			}()
			err := <-c.done
			close(ended)
			<-told
			if err == nil || !strings.Contains(err.Error(), "replaced") {
				t.Errorf("the service ends with %v", err)
			}
			c.engine.with(func() { c.engine.info.State = swarm.Active })
			c.stop = nil
			c.start()
			k.calls = c.client(k.id, address(1))
			if _, err := k.ask(); code(err) != "revoked" {
				t.Errorf("after the restart the card is answered %v", err)
			}
		})
	}
}

func TestTwoServices(t *testing.T) {
	c := newCluster(t, 1).start()
	if err := controller.Serve(t.Context(), c.options); err == nil || !strings.Contains(err.Error(), "another") {
		t.Errorf("a second service ends with %v", err)
	}
	if c.view().Cluster != "homelab" {
		t.Error("the first one is gone")
	}
}

func TestLeftoversAndModes(t *testing.T) {
	c := newCluster(t, 1)
	if err := os.MkdirAll(c.options.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	leftover := filepath.Join(c.options.StateDir, ".registry.json.123"+atomicfile.Suffix)
	if err := os.WriteFile(leftover, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.start()
	c.card(1).up()
	c.end()
	entries, err := os.ReadDir(c.options.StateDir)
	if err != nil {
		t.Fatal(err)
	}
	var tree []string
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		tree = append(tree, e.Name()+" "+info.Mode().String())
		if data, err := os.ReadFile(filepath.Join(c.options.StateDir, e.Name())); err != nil || strings.Contains(string(data), "SWMTKN") {
			t.Errorf("%s holds a token, or cannot be read: %v", e.Name(), err)
		}
	}
	want := ".lock -rw-------\nregistry.json -rw-------\nregistry.previous.json -rw-------"
	if have := strings.Join(tree, "\n"); have != want {
		t.Errorf("the folder has\n%s\nnot\n%s", have, want)
	}
}

func TestWhatCannotBeServed(t *testing.T) {
	for _, test := range []struct {
		summary string
		change  func(c *cluster)
		want    string
	}{
		{"a node's file", func(c *cluster) { c.node.Role = "node" }, "controller only"},
		{"a node's certificate", func(c *cluster) { c.options.Identity = c.identity(1) }, "controller's identity"},
		{"another cluster's file", func(c *cluster) { c.node.Cluster = "office" }, "office"},
		{"no engine", func(c *cluster) { c.options.Engine = nil }, "engine"},
	} {
		c := newCluster(t, 1)
		test.change(c)
		if err := controller.Serve(t.Context(), c.options); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", test.summary, err)
		}
	}
}

func FuzzRegistry(f *testing.F) {
	f.Add([]byte(`{"version":1,"cluster":"homelab","slots":{"p1":{"generation":1,"min_generation":2,"boot_id":"a","labels":{"a":"b"}}},"alarms":[{"time":"2026-01-01T00:00:00Z","code":"clone","detail":"x"}]}`))
	f.Add([]byte(`{"version":1,"cluster":"c","slots":{"p1":null}}`))
	f.Add([]byte(`{"version":1,"cluster":"c","slots":{"p1":{"generation":-1}}}`))
	f.Add([]byte("\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		again, err := controller.ParseRegistry(data)
		if err != nil {
			return
		}
		if twice, err := controller.ParseRegistry(again); err != nil || string(twice) != string(again) {
			t.Errorf("read and written again it is %q, %v; it was %q", twice, err, again)
		}
	})
}
