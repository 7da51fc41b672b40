package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"hatchery/firstboot/health"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
	"hatchery/internal/hearsay"
	"hatchery/internal/swarm"
	"hatchery/netboot"
	"hatchery/netboot/slots"
	"hatchery/netboot/store"
)

// How long a node may be silent, and how old the swarm's backup may be.
const (
	silence   = 3 * time.Minute // its agent reports every 20 seconds
	oldBackup = 26 * time.Hour  // one is taken every day
)

// cluster looks at what the service knows.
func (e *examination) cluster(ctx context.Context) {
	if e.View == nil {
		e.unchecked("the slots: there is no service to ask", nil)
		return
	}
	v, err := e.View(ctx)
	if err != nil {
		e.found(ServiceDown, OnController, "`systemctl status hatchery` and `journalctl -u hatchery` say why; `sudo systemctl start hatchery`", "the controller's service does not answer: %v", err)
		e.unchecked("the slots: the service does not answer", nil)
		return
	}
	e.view = v
	// Its agent looks all the time: what the kernel's log has no more, it has counted.
	if v.Health != nil {
		agents := *v.Health
		agents.Findings = slices.DeleteFunc(slices.Clone(agents.Findings), func(f enrol.Finding) bool { return e.has(f.Code, OnController) })
		e.health(OnController, &agents)
	}
	if v.TimeSource == enrol.TimeUntrusted && !e.has(health.Clock, OnController) {
		e.found(health.Clock, OnController, "let the controller reach a time server (`timedatectl timesync-status`), or build with `swarm: {offline: true}` and set the clock by hand",
			"the controller does not know the time: until then it lets no node join")
	}
	if e.Node.Docker {
		if v.Swarm.State != string(swarm.Active) {
			state := v.Swarm.State
			if state == "" {
				state = "not known: the engine does not answer"
			}
			if v.Swarm.Error != "" {
				state += ", " + v.Swarm.Error
			}
			e.found(SwarmDown, OnController, "`/usr/lib/hatchery/firstboot status` on the controller says what its agent waits for", "the controller's swarm is %s", state)
		}
		e.backup(v)
	}
	for _, a := range v.Alarms {
		where := OfCluster
		if a.Slot != 0 {
			where = clusterctrl.SlotName(a.Slot)
		}
		e.found(Alarm, where, "docs/enrolment.md tells what "+string(a.Code)+" means; `hatchery status --clear-alarms` once it is seen to", "%s, at %s: %s", a.Code, a.Time.UTC().Format(time.DateTime), a.Detail)
	}
	for i := range v.Slots {
		e.slot(&v.Slots[i])
	}
	e.versions(v)
}

func (e *examination) backup(v *enrol.ClusterView) {
	members := 0
	for _, s := range v.Slots {
		if s.NodeState == "ready" {
			members++
		}
	}
	if members == 0 {
		return // nobody could keep one
	}
	const remedy = "`journalctl -u hatchery` says why; `hatchery backup FILE` takes one now"
	switch b := v.Backup; {
	case b == nil || b.Taken.IsZero():
		e.found(BackupMissing, OnController, remedy, "there is no backup of the swarm yet")
	case b.Error != "":
		e.found(BackupMissing, OnController, remedy, "the swarm's backup: %s", b.Error)
	case len(b.Nodes) == 0:
		e.found(BackupMissing, OnController, remedy, "no node keeps the swarm's backup")
	case v.Time.Sub(b.Taken) > oldBackup:
		e.found(BackupMissing, OnController, remedy, "the swarm's newest backup is of %s", b.Taken.UTC().Format(time.DateTime))
	}
}

// slot looks at what is known of one slot.
func (e *examination) slot(s *enrol.SlotView) {
	heard := s.LastSeen != nil && e.view.Time.Sub(*s.LastSeen) < silence
	busy := s.Operation != nil
	switch {
	case s.Refused != "":
		e.found(NodeRefused, s.Name, "docs/enrolment.md tells what the code means, and what to do about it", "its last call was refused: %s", s.Refused)
	case s.Generation > 0 && s.MinGeneration > s.Generation:
		e.found(NodeRevoked, s.Name, fmt.Sprintf("`hatchery build %s --renew`, and flash it", s.Name), "it is revoked, and waits for a card of generation %d", s.MinGeneration)
	case busy && s.Operation.GivenUp && !e.booting[s.Slot]:
		e.found(CardGivenUp, s.Name, fmt.Sprintf("`hatchery console %[1]s` shows what it says; `hatchery rebuild %[1]s --keep` begins again; else flash a card for it, put that in, and `hatchery rebuild %[1]s --wait --keep`", s.Name),
			"its card is begun and not whole, and nobody goes on with it: %s", s.Operation.Detail)
	case busy: // what goes on with it says the operation
	case s.Power == "off":
		e.found(SlotOff, s.Name, "`hatchery power on "+s.Name+"`", "it is switched off")
	case e.booting[s.Slot]: // why, netboot has said
	case !heard:
		e.silent(s)
	default:
		if s.State == enrol.StateFailed {
			e.found(StepFailed, s.Name, "docs/first-boot.md has what the steps say; `hatchery console "+s.Name+"` shows what else the node says", "its agent's step %s fails: %s", s.Step, s.Detail)
		}
		if s.NodeState != "" && s.NodeState != "ready" {
			e.found(NodeDown, s.Name, "the engine on the node may be starting: if it stays so, `hatchery rebuild "+s.Name+"`", "its agent is heard, and the swarm says that the node is %s", s.NodeState)
		}
	}
	if !busy && s.NodeState == "ready" && (s.Availability == "drain" || s.Availability == "pause") {
		e.found(NodeInactive, s.Name, "`docker node update --availability active "+s.NodeID+"` if nobody wants it so", "its availability is %s: it takes no tasks", s.Availability)
	}
	if s.LastError != nil && !busy {
		e.found(SlotError, s.Name, "see to what it says, and run the command again: it goes on where it was", "%s: %s", s.LastError.Time.UTC().Format(time.DateTime), s.LastError.Text)
	}
	e.health(s.Name, s.Health)
}

// silent tells where a node is lost that is not heard.
func (e *examination) silent(s *enrol.SlotView) {
	since := "it was not heard since the service started"
	if s.LastSeen != nil {
		since = "it was last heard " + e.view.Time.Sub(*s.LastSeen).Round(time.Second).String() + " ago"
	}
	console := "`hatchery console " + s.Name + " --log` shows what it said last"
	switch {
	case s.Link == "down":
		e.found(NodeSilent, s.Name, "is there a card of this slot in it, in the Zero's USB port and not in PWR? "+console+"; `hatchery power cycle "+s.Name+"` starts it again",
			"%s, and it has no USB link: it does not boot, or hangs", since)
	case s.Link == "up":
		e.found(NodeSilent, s.Name, console+"; `hatchery power cycle "+s.Name+"` starts it again", "%s, though its USB link is up: its agent does not run, or hangs", since)
	default:
		e.found(NodeSilent, s.Name, console+"; docs/first-boot.md goes through what it can be", "%s", since)
	}
}

// health tells what a machine found of itself.
func (e *examination) health(where string, h *enrol.Health) {
	if h == nil {
		return
	}
	for _, f := range h.Findings {
		code, detail := f.Code, f.Detail
		known := false
		for _, c := range catalogue {
			known = known || c.Code == code
		}
		if !known {
			code, detail = Unknown, f.Code+": "+detail
		}
		e.found(code, where, f.Remedy, "%s", detail)
	}
}

// versions compares the agents' with the service's.
func (e *examination) versions(v *enrol.ClusterView) {
	if e.Version == "" {
		return
	}
	for _, s := range v.Slots {
		if s.AgentVersion != "" && s.AgentVersion != e.Version && s.Operation == nil {
			e.found(VersionsDiffer, s.Name, "`hatchery push` and `hatchery upgrade` bring the nodes to what the last build has; a controller that is behind is built and flashed", "its agent is %s, the controller's service %s", s.AgentVersion, e.Version)
		}
	}
}

// zero2 is the model whose boot ROM has the trap.
const zero2 = "zero-2-w"

// boots looks at slots without cards.
func (e *examination) boots(ctx context.Context) {
	if e.Boots == nil {
		return
	}
	v, err := e.Boots(ctx)
	if err != nil {
		if e.Node.Netboot != nil {
			e.unchecked("slots without cards", err)
		}
		return
	}
	for _, p := range v.Problems {
		e.found(NetbootProblem, OnController, "docs/netboot.md", "%s", p)
	}
	for i := range v.Slots {
		e.boot(&v.Slots[i])
	}
}

func (e *examination) boot(s *netboot.SlotView) {
	name := s.Slot
	if s.Mode != store.Netboot && s.Mode != store.Ephemeral {
		e.halfWritten(s)
		return
	}
	if s.Problem != "" {
		e.found(NetbootProblem, name, "`hatchery netboot status` and docs/netboot.md; `hatchery push "+name+"` gives it a root", "%s", s.Problem)
	}
	if d := s.Disk; d != nil {
		switch {
		case d.Refused > 0:
			e.found(DiskQuota, name, "`hatchery netboot reset "+name+"` gives it a fresh disk; `netboot: {quota: …}` in cluster.yaml more room", "%d of its writes found no room on the controller", d.Refused)
		case d.Quota > 0 && d.Stored > d.Quota/10*9:
			e.found(DiskQuota, name, "`hatchery netboot reset "+name+"` gives it a fresh disk; `netboot: {quota: …}` in cluster.yaml more room", "it has stored %d MiB of the %d that it may", d.Stored>>20, d.Quota>>20)
		}
		if d.FlushError != "" {
			e.found(NetbootProblem, name, "the controller's card is full, or bad: `df -h /var/lib/hatchery`, `dmesg`", "what it writes cannot be stored: %s", d.FlushError)
		}
	}
	if s.State == slots.Card {
		e.booting[s.Number] = true
		e.found(health.CardInSlot, name, "take the card out and `hatchery power cycle "+name+"`; or `hatchery netboot disable "+name+"`, if it is to boot from it", "it booted from a card, and is to boot without one: the boot ROM prefers the card")
		return
	}
	stage, trapped := stageOf(s)
	stuck := s.State == slots.Failed || s.Tries > 0 && (s.State == slots.ROM || s.State == slots.Bootcode || s.State == slots.Files || s.State == slots.Link)
	if !stuck {
		return
	}
	e.booting[s.Number] = true
	why := s.Reason
	if why == "" {
		why = s.Detail
	}
	target, _ := e.Node.Target(s.Number)
	switch {
	case target.Model == zero2 && trapped:
		e.found(BootROMTrap, name, "boot it once from a card with a current Raspberry Pi OS, which sets a bit for good (usbboot issue 101); if that does not help, pin older boot files with `netboot: {firmware: …}` (firmware issue 2024)",
			"a Zero 2 W that hangs with its boot ROM: %s", why)
	case stage == slots.ROM:
		e.found(SlotDead, name, "is there a card with boot files in it? Take it out. Is there a Zero, and does the wiring fit (`hatchery netboot status`, docs/netboot.md)? Then `hatchery netboot retry "+name+"`", "its boot ROM is not seen: %s", why)
	default:
		e.found(SlotDead, name, "`hatchery console "+name+" --log` shows what it said; docs/netboot.md has what each state means; then `hatchery netboot retry "+name+"`", "it does not get past %s: %s", stage, why)
	}
}

// halfWritten looks at a slot with a card: whose card is half written is started over USB,
// and may hang as others do.
func (e *examination) halfWritten(s *netboot.SlotView) {
	stuck := s.State == slots.Rescue && s.Tries > 0
	given := s.State == slots.Failed && strings.Contains(s.Reason, slots.HalfWritten)
	if !stuck && !given {
		return
	}
	e.booting[s.Number] = true
	why := s.Reason
	if why == "" {
		why = s.Detail
	}
	e.found(SlotDead, s.Slot, fmt.Sprintf("`hatchery console %[1]s` shows what it says, and `hatchery netboot retry %[1]s` tries again; else flash a card for it, put that in, and `hatchery rebuild %[1]s --wait`", s.Slot),
		"it is started over USB to go on writing its card, and does not get there: %s", why)
}

// stageOf is how far a slot came the last time, and whether it hung where a boot
// ROM hangs.
func stageOf(s *netboot.SlotView) (stage slots.State, trapped bool) {
	stage = s.State
	for i := len(s.Events) - 1; i >= 0 && (stage == slots.Failed || stage == slots.Off); i-- {
		stage = s.Events[i].State
	}
	// In its trap the ROM is seen, and takes no bootcode.bin.
	seen := stage == slots.Bootcode
	for _, event := range s.Events {
		seen = seen || event.State == slots.Bootcode
		if event.State == slots.Files || event.State == slots.Link {
			seen = false // it got further since
		}
	}
	return stage, seen && (stage == slots.Bootcode || stage == slots.ROM)
}

// line is a text from elsewhere, fit to be told.
func line(text string) string { return hearsay.Line(text, 200) }
