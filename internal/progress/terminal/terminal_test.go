package terminal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"hatchery/internal/progress/terminal"
)

func TestLinesElsewhereThanOnATerminal(t *testing.T) {
	var out bytes.Buffer
	display := terminal.New(&out)
	task := display.Begin("decompress base.img.xz", 100)
	task.Add(100)
	task.End(nil)
	task.End(errors.New("a deferred End comes after the real one"))
	display.Begin("write p1.img", -1).End(errors.New("disk full"))
	display.Close()
	for _, want := range []string{"decompress base.img.xz ...\n", "decompress base.img.xz: done in ", "write p1.img: failed after "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
	if n := strings.Count(out.String(), "decompress"); n != 2 {
		t.Errorf("%d lines for one task, want 2:\n%s", n, out.String())
	}
}

func TestJSONEvents(t *testing.T) {
	var out bytes.Buffer
	display := terminal.NewJSON(&out)
	task := display.Begin("write p1.img", 7)
	task.Add(7)
	task.End(errors.New("disk full"))
	display.Close()
	var events []string
	for line := range strings.Lines(out.String()) {
		var record struct {
			Event, Task, Error string
			Done, Total        int64
		}
		if err := json.Unmarshal([]byte(line), &record); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		if record.Task != "write p1.img" || record.Total != 7 {
			t.Errorf("unexpected record %+v", record)
		}
		events = append(events, record.Event+record.Error)
	}
	if got := strings.Join(events, " "); got != "begin enddisk full" {
		t.Errorf("events %q", got)
	}
}
