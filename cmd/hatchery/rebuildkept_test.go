package main

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hatchery/controller/preserve"
	"hatchery/internal/enrol"
	"hatchery/internal/kept"
)

// newKept stands for a service that keeps something of p2, and of p3 what its node has back.
func newKept(t *testing.T) (socket string, dropped *bool) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "hatchery.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	dropped = new(bool)
	saved := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /kept/{$}", func(w http.ResponseWriter, _ *http.Request) {
		list := []preserve.View{{Slot: 3, Name: "p3", Saved: saved, Stored: 2048, File: "/k/p3.tar.zst", Restored: true, NotBack: []kept.Left{{Name: "/srv", Why: "not named any more"}}},
			{Slot: 4, Name: "p4", File: "/k/p4.tar.zst", Damaged: "what is known of it cannot be read: \x1b[2J"}}
		if !*dropped {
			list = append([]preserve.View{{Slot: 2, Name: "p2", Saved: saved, Stored: 1, File: "/k/p2.tar.zst", Waits: true,
				Roots: []kept.Root{{Kind: kept.Volume, Name: "data", Bytes: 2048}}, Left: []kept.Left{{Name: "volume \x1b[2J", Why: "it has no name of its own"}}}}, list...)
		}
		_ = json.NewEncoder(w).Encode(list)
	})
	mux.HandleFunc("GET /kept/{slot}/archive", func(w http.ResponseWriter, r *http.Request) {
		if r.PathValue("slot") != "p2" || *dropped {
			enrol.WriteError(w, &enrol.Error{Status: http.StatusNotFound, Code: enrol.UnknownSlot, Detail: "nothing is kept of " + r.PathValue("slot")})
			return
		}
		_, _ = w.Write([]byte("an archive"))
	})
	mux.HandleFunc("DELETE /kept/p2", func(w http.ResponseWriter, _ *http.Request) {
		*dropped = true
		enrol.WriteJSON(w, http.StatusOK, struct{}{})
	})
	server := &http.Server{Handler: mux}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { server.Close() })
	return socket, dropped
}

func TestRebuildKept(t *testing.T) {
	socket, dropped := newKept(t)
	place := filepath.Join(t.TempDir(), "p2.tar.zst")
	for _, test := range []struct {
		args           string
		code           int
		stdout, stderr string
	}{
		{"rebuild --kept", exitDone, "p2: saved ", ""},
		{"rebuild --kept", exitDone, "1 KiB in /k/p2.tar.zst: waits for its next root\n    volume data, 2 KiB\n    not kept: volume \\x1b[2J: it has no name of its own\np3: ", ""},
		{"rebuild --kept p3", exitDone, "its node has it back\n    not put back: /srv: not named any more\n", ""},
		{"rebuild --kept p4", exitDone, "p4: what is known of it cannot be read: \\x1b[2J\n", ""},
		{"rebuild --kept p1", exitDone, "Nothing is kept.\n", ""},
		{"rebuild --kept p2 --json", exitDone, `"waits": true`, ""},
		{"rebuild --kept p2 --to " + place, exitDone, "shows what is in it", ""},
		{"rebuild --kept p2 --to -", exitDone, "an archive", ""},
		{"rebuild --kept p2 --to " + place + " --json", exitDone, `"bytes": 10`, ""},
		{"rebuild --kept p1 --to " + place, exitUsage, "", "nothing is kept of p1"},
		{"rebuild --kept --to " + place, exitUsage, "", "name one slot"},
		{"rebuild --kept p1 p2", exitUsage, "", "name one slot"},
		{"rebuild --kept two", exitUsage, "", `"two" is not a slot`},
		{"rebuild p2 --to " + place, exitUsage, "", "say --kept as well"},
		{"rebuild p2 --drop", exitUsage, "", "say --kept as well"},
		{"rebuild --kept p2 --drop --to " + place, exitUsage, "", "do not go together"},
		{"rebuild --kept p2 --keep --now", exitUsage, "", "does not go together with --keep, --now"},
		{"rebuild --kept p1 --drop", exitDone, "Nothing is kept of p1.", ""},
		{"rebuild --kept p2 --drop", exitUsage, "", "say --yes"},
		{"rebuild --kept p2 --drop --yes", exitDone, "What was kept of p2 is gone.", ""},
		{"rebuild --kept p2 --to " + place, exitUsage, "", "nothing is kept of p2"},
	} {
		code, out, errs := says(t.Context(), socket, test.args)
		if code != test.code || !strings.Contains(out, test.stdout) || !strings.Contains(errs, test.stderr) || strings.Contains(out+errs, "\x1b") {
			t.Errorf("%s: exit code %d\n%s\n%s\nwant %d, %q, %q", test.args, code, out, errs, test.code, test.stdout, test.stderr)
		}
		if *dropped != strings.Contains(test.args, "--yes") && !strings.HasSuffix(test.stderr, "kept of p2") {
			t.Errorf("%s: it is gone: %v", test.args, *dropped)
		}
	}
	// What was fetched stays when nothing can be fetched any more.
	if got, err := os.ReadFile(place); err != nil || string(got) != "an archive" {
		t.Errorf("%q, %v", got, err)
	}
}

// TestRebuildKeptElsewhere writes what a controller has to a file of this machine.
func TestRebuildKeptElsewhere(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\nfor a; do printf '<%s>' \"$a\"; done\n"
	if err := os.WriteFile(filepath.Join(dir, "ssh"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	place := filepath.Join(dir, "p2.tar.zst")
	if code, out, errs := says(t.Context(), "unused", "rebuild --kept p2 --on hammond --to "+place); code != exitDone {
		t.Fatalf("exit code %d\n%s\n%s", code, out, errs)
	}
	if got, err := os.ReadFile(place); err != nil || !strings.HasSuffix(string(got), "<hammond><--><sudo><-n><hatchery><'rebuild'><'--kept'><'p2'><'--to=-'>") {
		t.Errorf("%s, %v", got, err)
	}
	if _, out, _ := says(t.Context(), "unused", "rebuild --kept p2 --drop --yes --on hammond"); !strings.HasSuffix(out, "<'rebuild'><'--kept'><'p2'><'--drop'><'--yes'>") {
		t.Error(out)
	}
}
