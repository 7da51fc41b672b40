package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"hatchery/internal/enrol"
)

// The table of `hatchery status`, a row a slot.

// narrowest is the terminal, in characters, that a table is drawn on; on a
// narrower one each slot has a paragraph.
const narrowest = 60

// leastState is how wide the last column of a table is at least, in characters,
// as long as there are columns to leave out.
const leastState = 20

// statusLines are what status prints of a view: at most so many characters a
// line, or as many as it takes if that is 0. What does not fit is broken into
// more lines, and not left out.
func statusLines(v *enrol.ClusterView, columns int) []string {
	var lines []string
	tell := func(indent int, format string, values ...any) {
		lines = append(lines, wrapped(oneLine(fmt.Sprintf(format, values...)), columns, indent)...)
	}
	head := fmt.Sprintf("Cluster %s: swarm %s, time from %s", v.Cluster, orNone(v.Swarm.State), v.TimeSource)
	if b := v.Backup; b != nil && !b.Taken.IsZero() {
		head += fmt.Sprintf(", backup of %s on %s", b.Taken.Local().Format(time.DateTime), orNone(strings.Join(b.Nodes, ", ")))
	}
	tell(0, "%s.", head)
	if v.Swarm.Error != "" {
		tell(2, "The swarm says: %s", v.Swarm.Error)
	}
	if v.Backup != nil && v.Backup.Error != "" {
		tell(2, "The swarm's backup: %s", v.Backup.Error)
	}
	if versions := versionsOf(v.Slots); versions != "" {
		tell(2, "Versions: %s.", versions)
	}
	if w := v.Workloads; w != nil {
		tell(2, "Workloads: %s", workloadsText(w, v.Time))
	}
	if columns > 0 && columns < narrowest {
		for i := range v.Slots {
			tell(2, "%s", slotSentence(v, &v.Slots[i]))
		}
	} else {
		lines = append(lines, slotTable(v, columns)...)
	}
	for _, a := range v.Alarms {
		tell(2, "ALARM %s: %s (%s)", a.Time.Local().Format(time.DateTime), a.Detail, a.Code)
	}
	for i := range v.Slots {
		s := &v.Slots[i]
		if o := s.Operation; o != nil {
			tell(6, "%-4s  %s", s.Name, operationText(o, v.Time))
		}
	}
	for i := range v.Slots {
		s := &v.Slots[i]
		if e := s.LastError; e != nil {
			tell(6, "%-4s  last error, %s: %s", s.Name, past(v.Time, e.Time), e.Text)
		}
	}
	found := func(name string, h *enrol.Health) {
		if h == nil {
			return
		}
		for _, f := range h.Findings {
			line := fmt.Sprintf("%-4s  found: %s (%s)", name, f.Detail, f.Code)
			if f.Remedy != "" {
				line += ": " + f.Remedy
			}
			tell(6, "%s", line)
		}
	}
	found("controller", v.Health)
	for i := range v.Slots {
		found(v.Slots[i].Name, v.Slots[i].Health)
	}
	return lines
}

// slotTable is the table, of the columns that there is room for.
func slotTable(v *enrol.ClusterView, columns int) []string {
	// In the order in which they are left out where there is no room: what they
	// say stands below the table too, or is the least that is missed.
	const (
		slot = iota
		hostname
		power
		link
		node
		heard
		step
		docker
		findings
		state
		all
	)
	leaveOut := []int{findings, hostname, docker, heard, link}
	rows := [][]string{{"SLOT", "HOSTNAME", "POWER", "LINK", "NODE", "HEARD", "STEP", "DOCKER", "FINDINGS", "STATE"}}
	for i := range v.Slots {
		s := &v.Slots[i]
		row := make([]string, all)
		row[slot], row[hostname], row[power], row[link] = s.Name, s.Hostname, s.Power, s.Link
		row[node], row[heard], row[step], row[state] = nodeText(s), heardText(v, s), stepText(s), stateText(s)
		if s.Health != nil {
			row[docker], row[findings] = s.Health.Engine, fmt.Sprint(len(s.Health.Findings))
		}
		for c := range row[:state] {
			row[c] = orNone(oneLine(row[c]))
		}
		row[state] = oneLine(row[state])
		rows = append(rows, row)
	}
	// What a node calls itself is no longer than a column of a table should be.
	const widest = 20
	width := make([]int, all)
	for _, row := range rows {
		for c, text := range row[:state] {
			row[c] = shorten(text, widest)
			width[c] = max(width[c], utf8.RuneCountInString(row[c]))
		}
	}
	shown := func() (before int) {
		for _, w := range width[:state] {
			if w > 0 {
				before += w + 2
			}
		}
		return before
	}
	for _, c := range leaveOut {
		if columns > 0 && columns-shown() < leastState {
			width[c] = 0
		}
	}
	before := shown()
	var lines []string
	for _, row := range rows {
		var b strings.Builder
		for c, text := range row[:state] {
			if width[c] > 0 {
				b.WriteString(text + strings.Repeat(" ", width[c]+2-utf8.RuneCountInString(text)))
			}
		}
		room := 0
		if columns > 0 {
			room = max(columns-before, 1)
		}
		for i, part := range wrapped(row[state], room, 0) {
			if i > 0 {
				b.Reset()
				b.WriteString(strings.Repeat(" ", before))
			}
			b.WriteString(part)
			lines = append(lines, strings.TrimRight(b.String(), " "))
		}
	}
	return lines
}

// slotSentence says what the table has of a slot.
func slotSentence(v *enrol.ClusterView, s *enrol.SlotView) string {
	text := s.Name + " " + s.Hostname + ": node " + nodeText(s)
	if s.Power != "" {
		text += ", power " + s.Power
	}
	if s.Link != "" {
		text += ", link " + s.Link
	}
	switch heard := heardText(v, s); heard {
	case "never":
		text += ", never heard of"
	case "now":
		text += ", heard now"
	default:
		text += ", heard " + heard + " ago"
	}
	if step := stepText(s); step != "" {
		text += ", at " + step
	}
	if s.Health != nil {
		if s.Health.Engine != "" {
			text += ", Docker " + s.Health.Engine
		}
		if n := len(s.Health.Findings); n > 0 {
			text += ", " + plural(n, "1 finding", "%d findings")
		}
	}
	return joined(text, stateText(s))
}

// nodeText is what the swarm says of a slot's node.
func nodeText(s *enrol.SlotView) string {
	if s.NodeState == "" || s.Availability == "" || s.Availability == "active" {
		return orNone(s.NodeState)
	}
	return s.NodeState + ", " + s.Availability
}

// heardText says when a slot's agent was heard of.
func heardText(v *enrol.ClusterView, s *enrol.SlotView) string {
	if s.LastSeen == nil {
		return "never"
	}
	return ago(v.Time.Sub(*s.LastSeen))
}

// boots says whether a slot is on its way to its agent, or lost on it: then what
// its boot says is what there is to know, and the agent's word is of before.
func boots(s *enrol.SlotView) bool {
	switch s.Boot {
	case "", "unknown", "ready", "card", "off":
		return false
	}
	return true
}

// stepText is the step that a slot's boot is at, or its agent.
func stepText(s *enrol.SlotView) string {
	if boots(s) {
		return s.Boot
	}
	return s.Step
}

// stateText says how a slot's step stands, or what is wrong with the slot.
func stateText(s *enrol.SlotView) string {
	switch {
	case s.Refused != "":
		return "refused: " + s.Refused
	case s.Generation > 0 && s.MinGeneration > s.Generation:
		return fmt.Sprintf("revoked: waits for generation %d (hatchery build %s --renew)", s.MinGeneration, s.Name)
	case s.Power == "off":
		return "switched off"
	case boots(s):
		if s.BootInfo != "" {
			return s.BootInfo
		}
		return "boots over USB"
	case s.LastSeen == nil && s.State == "":
		if s.Power == "on" {
			return "not heard of since the service started"
		}
		return "not heard of since the service started: is it powered?"
	}
	return joined(s.State, s.Detail)
}

// operationText says what is being done with a slot.
func operationText(o *enrol.OperationView, now time.Time) string {
	text := o.Kind
	if o.Step != "" {
		text += ", step " + o.Step
	}
	if !o.Since.IsZero() {
		text += ", since " + ago(now.Sub(o.Since))
	}
	return joined(text, o.Detail)
}

// workloadsText says where what is declared to run stands: all of it, and then
// stack by stack.
func workloadsText(w *enrol.WorkloadsView, now time.Time) string {
	text := orNone(w.State)
	if !w.Since.IsZero() {
		text += ", since " + ago(now.Sub(w.Since))
	}
	text = joined(text, w.Detail)
	for i, s := range w.Stacks {
		text += map[bool]string{true: "; stacks: ", false: ", "}[i == 0] + s.Name + " " + s.State
		if s.Detail != "" && s.Detail != w.Detail {
			text += " (" + s.Detail + ")"
		}
	}
	return text
}

// past says when something was.
func past(now, then time.Time) string {
	if then.IsZero() {
		return "some time ago"
	}
	if text := ago(now.Sub(then)); text != "now" {
		return text + " ago"
	}
	return "now"
}

// versionsOf says which versions the slots have of what changes with an image;
// where they differ, who has which.
func versionsOf(slots []enrol.SlotView) string {
	var all []string
	for _, of := range []struct {
		what string
		get  func(s *enrol.SlotView) string
	}{
		{"agent", func(s *enrol.SlotView) string { return s.AgentVersion }},
		{"Docker", func(s *enrol.SlotView) string { return healthOf(s).Engine }},
		{"kernel", func(s *enrol.SlotView) string { return healthOf(s).Kernel }},
		{"", func(s *enrol.SlotView) string { return healthOf(s).System }},
	} {
		var versions []string
		who := map[string][]string{}
		for i := range slots {
			version := of.get(&slots[i])
			if version == "" {
				continue
			}
			if who[version] == nil {
				versions = append(versions, version)
			}
			who[version] = append(who[version], slots[i].Name)
		}
		slices.Sort(versions)
		var texts []string
		for _, version := range versions {
			if len(versions) > 1 {
				version += " (" + strings.Join(who[version], ", ") + ")"
			}
			texts = append(texts, version)
		}
		if len(texts) > 0 {
			all = append(all, strings.TrimLeft(of.what+" ", " ")+strings.Join(texts, ", "))
		}
	}
	return strings.Join(all, "; ")
}

// healthOf is what a node found of itself, nothing if it has not said.
func healthOf(s *enrol.SlotView) *enrol.Health {
	if s.Health == nil {
		return new(enrol.Health)
	}
	return s.Health
}

// wrapped breaks a line between words into lines of so many characters, all but
// the first indented; a word that is longer is broken too. 0 breaks nothing.
func wrapped(line string, columns, indent int) []string {
	line = strings.TrimRight(line, " ")
	if columns <= 0 {
		return []string{line}
	}
	if indent >= columns/2 {
		indent = 0
	}
	var lines []string
	for rest := []rune(line); ; {
		room := columns
		if len(lines) > 0 {
			room -= indent
		}
		if len(rest) <= room {
			return append(lines, begun(rest, len(lines) > 0, indent))
		}
		// Where the next line begins; the space before it goes.
		at := room
		for i := room; i > 0; i-- {
			if rest[i] == ' ' && strings.TrimSpace(string(rest[:i])) != "" {
				at = i
				break
			}
		}
		lines = append(lines, begun(rest[:at], len(lines) > 0, indent))
		rest = []rune(strings.TrimLeft(string(rest[at:]), " "))
	}
}

func begun(text []rune, indented bool, indent int) string {
	line := strings.TrimRight(string(text), " ")
	if indented {
		line = strings.Repeat(" ", indent) + line
	}
	return line
}
