package page

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"hatchery/internal/enrol"
	"hatchery/internal/hearsay"
)

// A Mark says how something stands. It is shown as a shape, beside words.
type Mark string

// The marks.
const (
	MarkOK   Mark = "ok"
	MarkBusy Mark = "busy" // on its way
	MarkBad  Mark = "bad"  // a person should look
	MarkOff  Mark = "off"
	MarkNone Mark = ""
)

// A Fact is a line of what is known.
type Fact struct {
	ID      string     `json:"id"` // power, link …
	Name    string     `json:"name"`
	Mark    Mark       `json:"mark"`
	Text    string     `json:"text"`              // "" where nobody knows
	Time    *time.Time `json:"time,omitempty"`    // since when, by the controller's clock
	Percent *int       `json:"percent,omitempty"` // how much of it is done
}

// A Card is what is shown of a slot. It has the same facts in the same order all
// the time.
type Card struct {
	Slot     int    `json:"slot"`
	Name     string `json:"name"`
	Hostname string `json:"hostname"`
	Model    string `json:"model,omitempty"`
	Mark     Mark   `json:"mark"`
	State    string `json:"state"` // in a word or two
	Facts    []Fact `json:"facts"`
}

// An Alarm is something that a person should look at.
type Alarm struct {
	Time   time.Time `json:"time"`
	Slot   string    `json:"slot,omitempty"` // p2, unless the detail begins with it
	Code   string    `json:"code"`
	Detail string    `json:"detail"`
}

// most is how long a text of others may be on the page, in bytes.
const most = 400

// said is what others said, fit for the page.
func said(text string) string { return hearsay.Line(text, most) }

// words joins what is not empty.
func words(separator string, parts ...string) string {
	var all []string
	for _, p := range parts {
		if p != "" {
			all = append(all, p)
		}
	}
	return strings.Join(all, separator)
}

// cardOf is what is shown of a slot; asked is what was last done with it from
// here, nil for nothing.
func cardOf(v *enrol.SlotView, asked *outcome) Card {
	c := Card{Slot: v.Slot, Name: v.Name, Hostname: said(v.Hostname), Model: said(v.Model)}
	c.Mark, c.State = standing(v)
	c.Facts = []Fact{
		operationFact(v.Operation), askedFact(asked),
		{ID: "power", Name: "Power", Mark: switched(v.Power), Text: said(v.Power)},
		{ID: "link", Name: "USB link", Mark: switched(v.Link), Text: said(v.Link)},
		bootFact(v), agentFact(v), dockerFact(v), swarmFact(v), versionsFact(v), healthFact(v.Health), seenFact(v), errorFact(v),
	}
	return c
}

// standing is a slot's state in a word or two: what hinders it first.
func standing(v *enrol.SlotView) (Mark, string) {
	switch {
	case v.Operation != nil && v.Operation.GivenUp:
		return MarkBad, said(words(": ", v.Operation.Kind, "given up"))
	case v.Operation != nil:
		return MarkBusy, said(words(": ", v.Operation.Kind, v.Operation.Step))
	case v.Refused != "":
		return MarkBad, "refused"
	case v.Power == "off":
		return MarkOff, "off"
	case v.Boot == "failed":
		return MarkBad, "boot failed"
	case v.State == enrol.StateFailed:
		return MarkBad, said("failed: " + v.Step)
	case v.NodeState == "ready" && v.Availability != "" && v.Availability != "active":
		return MarkBusy, said("ready, " + v.Availability)
	case v.NodeState == "ready":
		return MarkOK, "ready"
	case v.NodeState == "down", v.NodeState == "disconnected":
		return MarkBad, v.NodeState
	case v.LastSeen == nil && v.Boot != "" && v.Boot != "unknown":
		return MarkBusy, said("boots: " + v.Boot)
	case v.LastSeen == nil:
		return MarkNone, "not heard of"
	case v.Step != "":
		return MarkBusy, said(v.Step)
	}
	return MarkBusy, "on its way"
}

// switched marks what is on or off, up or down.
func switched(state string) Mark {
	switch state {
	case "on", "up":
		return MarkOK
	case "off", "down":
		return MarkOff
	}
	return MarkNone
}

// percentage is a part of a whole, in a detail for people.
var percentage = regexp.MustCompile(`\b(\d{1,3}) ?%`)

func operationFact(o *enrol.OperationView) Fact {
	f := Fact{ID: "operation", Name: "Operation"}
	if o == nil {
		return f
	}
	f.Mark, f.Text = MarkBusy, said(words(": ", o.Kind, o.Step, o.Detail))
	if o.GivenUp {
		f.Mark = MarkBad
	}
	if !o.Since.IsZero() {
		f.Time = &o.Since
	}
	if found := percentage.FindStringSubmatch(o.Detail); found != nil {
		if n, err := strconv.Atoi(found[1]); err == nil && n <= 100 {
			f.Percent = &n
		}
	}
	return f
}

func askedFact(o *outcome) Fact {
	f := Fact{ID: "asked", Name: "Last asked"}
	if o == nil {
		return f
	}
	f.Time = &o.since
	switch {
	case !o.done:
		f.Mark, f.Text = MarkBusy, o.action+": at work"
	case o.err != nil:
		f.Mark, f.Text = MarkBad, said(o.action+": "+o.err.Error())
	default:
		f.Mark, f.Text = MarkOK, o.action+": done"
	}
	return f
}

func bootFact(v *enrol.SlotView) Fact {
	f := Fact{ID: "boot", Name: "Boot"}
	switch {
	case v.Boot != "":
		f.Text = said(words(": ", v.Boot, v.BootInfo))
		switch v.Boot {
		case "ready", "card":
			f.Mark = MarkOK
		case "failed", "lost":
			f.Mark = MarkBad
		case "off":
			f.Mark = MarkOff
		case "unknown":
		default:
			f.Mark = MarkBusy
		}
	case v.Root != "":
		f.Text = said(v.Root)
	default:
		f.Text = "from its card"
	}
	return f
}

func agentFact(v *enrol.SlotView) Fact {
	f := Fact{ID: "agent", Name: "Agent", Text: said(words(": ", words(" ", v.Step, v.State), v.Detail))}
	switch v.State {
	case enrol.StateDone:
		f.Mark = MarkOK
	case enrol.StateRunning, enrol.StateWaiting:
		f.Mark = MarkBusy
	case enrol.StateFailed:
		f.Mark = MarkBad
	}
	return f
}

func dockerFact(v *enrol.SlotView) Fact {
	f := Fact{ID: "docker", Name: "Docker"}
	if v.Health == nil || v.Health.Engine == "" {
		return f
	}
	f.Mark, f.Text = MarkOK, said(v.Health.Engine)
	return f
}

func swarmFact(v *enrol.SlotView) Fact {
	f := Fact{ID: "swarm", Name: "Swarm", Text: said(words(", ", v.NodeState, v.Availability))}
	switch {
	case v.NodeState == "ready" && (v.Availability == "active" || v.Availability == ""):
		f.Mark = MarkOK
	case v.NodeState == "ready", v.NodeState == "unknown":
		f.Mark = MarkBusy
	case v.NodeState != "":
		f.Mark = MarkBad
	}
	return f
}

func versionsFact(v *enrol.SlotView) Fact {
	var system, kernel, agent string
	if h := v.Health; h != nil {
		system = h.System
		if h.Kernel != "" {
			kernel = "Linux " + h.Kernel
		}
	}
	if v.AgentVersion != "" {
		agent = "agent " + v.AgentVersion
	}
	return Fact{ID: "versions", Name: "Versions", Text: said(words(", ", system, kernel, agent))}
}

func healthFact(h *enrol.Health) Fact {
	f := Fact{ID: "health", Name: "Health"}
	switch {
	case h == nil:
	case len(h.Findings) > 0:
		f.Mark = MarkBad
		var all []string
		for _, finding := range h.Findings {
			text := finding.Detail
			if finding.Remedy != "" {
				text += " (" + finding.Remedy + ")"
			}
			all = append(all, text)
		}
		f.Text = said(strings.Join(all, "; "))
	default:
		f.Mark, f.Text = MarkOK, "nothing found"
		var free []string
		if h.Memory > 0 {
			free = append(free, fmt.Sprintf("%d of %d MiB memory", h.Free>>20, h.Memory>>20))
		}
		if h.Disk > 0 {
			free = append(free, fmt.Sprintf("%.1f of %.1f GiB disk", float64(h.DiskFree)/(1<<30), float64(h.Disk)/(1<<30)))
		}
		if len(free) > 0 {
			f.Text += "; free: " + strings.Join(free, ", ")
		}
	}
	return f
}

func seenFact(v *enrol.SlotView) Fact {
	if v.LastSeen == nil {
		return Fact{ID: "seen", Name: "Last heard", Text: "never"}
	}
	// It is reckoned back from the clock each time, and moves by nanoseconds.
	seen := v.LastSeen.Truncate(time.Second)
	return Fact{ID: "seen", Name: "Last heard", Time: &seen}
}

func errorFact(v *enrol.SlotView) Fact {
	f := Fact{ID: "error", Name: "Last error"}
	switch {
	case v.Refused != "":
		f.Mark, f.Text = MarkBad, said(v.Refused)
	case v.LastError != nil && v.LastError.Text != "":
		f.Mark, f.Text = MarkBad, said(v.LastError.Text)
		if !v.LastError.Time.IsZero() {
			f.Time = &v.LastError.Time
		}
	}
	return f
}

// clusterFacts are what is shown of the cluster as a whole.
func clusterFacts(v *enrol.ClusterView) []Fact {
	swarm := Fact{ID: "swarm", Name: "Swarm", Mark: MarkBad, Text: said(words(": ", v.Swarm.State, v.Swarm.Error))}
	switch v.Swarm.State {
	case "active":
		swarm.Mark = MarkOK
	case "pending", "inactive":
		swarm.Mark = MarkBusy
	case "":
		swarm.Text = "Docker does not answer"
	}
	clock := Fact{ID: "time", Name: "Time", Mark: MarkOK, Text: said(v.TimeSource)}
	if v.TimeSource == enrol.TimeUntrusted {
		clock.Mark, clock.Text = MarkBusy, "not sure yet"
	}
	backup := Fact{ID: "backup", Name: "Backup"}
	switch b := v.Backup; {
	case b == nil:
	case b.Error != "":
		backup.Mark, backup.Text = MarkBad, said(b.Error)
	case !b.Taken.IsZero():
		backup.Mark, backup.Time = MarkOK, &b.Taken
		if backup.Text = "on the controller alone"; len(b.Nodes) > 0 {
			backup.Text = said("on " + strings.Join(b.Nodes, ", "))
		}
	}
	own := healthFact(v.Health)
	own.ID, own.Name = "controller", "Controller"
	return []Fact{swarm, clock, backup, workloadsFact(v.Workloads), own}
}

// workloadsFact is where what is declared to run stands, stack by stack.
func workloadsFact(w *enrol.WorkloadsView) Fact {
	f := Fact{ID: "workloads", Name: "Workloads"}
	if w == nil {
		return f
	}
	switch w.State {
	case "applied":
		f.Mark = MarkOK
	case "failed":
		f.Mark = MarkBad
	case "waiting", "applying":
		f.Mark = MarkBusy
	}
	var stacks []string
	for _, s := range w.Stacks {
		text := s.Name + " " + s.State
		if s.Detail != "" && s.Detail != w.Detail {
			text += " (" + s.Detail + ")"
		}
		stacks = append(stacks, text)
	}
	f.Text = said(words("; ", words(": ", w.State, w.Detail), strings.Join(stacks, ", ")))
	if !w.Since.IsZero() {
		f.Time = &w.Since
	}
	return f
}

func alarmsOf(v *enrol.ClusterView) []Alarm {
	alarms := []Alarm{}
	for _, a := range v.Alarms {
		detail := said(a.Detail)
		alarms = append(alarms, Alarm{Time: a.Time, Slot: slotBeside(a.Slot, detail), Code: said(string(a.Code)), Detail: detail})
	}
	return alarms
}

// age says how long ago something was, by the same clock.
func age(now time.Time, t *time.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	switch d := now.Sub(*t); {
	case d < 0:
		return "just now"
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s ago", int(d/time.Second))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min ago", int(d/time.Minute))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h ago", int(d/time.Hour))
	default:
		return fmt.Sprintf("%d days ago", int(d/(24*time.Hour)))
	}
}
