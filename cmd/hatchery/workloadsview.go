package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"hatchery/controller/workload"
	"hatchery/imagebuilder"
	"hatchery/internal/spec"
)

// printProblems prints warnings about places of files.
func printProblems(w io.Writer, warnings []spec.Problem) {
	for _, p := range warnings {
		p.Message = "warning: " + p.Message
		fmt.Fprintln(w, harmless(p.String()))
	}
}

// printWorkloads shows what a controller's image has it run.
func printWorkloads(w io.Writer, e *imagebuilder.WorkloadsEntry) {
	when := map[string]string{spec.WaitForNodes: "there is a Ready node for each service", spec.WaitForAll: "all nodes are Ready"}[e.WaitFor]
	printLine(w, "The controller runs, as soon as %s:", when)
	for _, name := range e.Networks {
		printLine(w, "  network  %s", name)
	}
	for _, s := range e.Secrets {
		printLine(w, "  secret   %s: %s", s.Name, whereContent(s))
	}
	for _, c := range e.Configs {
		printLine(w, "  config   %s%s", c.Name, map[bool]string{true: ": `hatchery secrets push --config` brings it"}[c.Pushed])
	}
	for _, s := range e.Stacks {
		printLine(w, "  stack    %s (%s)", s.Name, s.File)
		for _, x := range s.Services {
			text := x.Name + "  " + x.Image
			if len(x.Constraints) > 0 {
				text += "  where " + strings.Join(x.Constraints, ", ")
			}
			printLine(w, "    service  %s", text)
		}
	}
}

func whereContent(s imagebuilder.ContentEntry) string {
	if s.Pushed {
		return "in no image; `hatchery secrets push` brings it"
	}
	return "in the controller's image until the swarm has it"
}

// secretsNote is what there is to know of a card with secrets on it; "" where there
// are none.
func secretsNote(e *imagebuilder.WorkloadsEntry) string {
	if e == nil {
		return ""
	}
	var names []string
	for _, s := range e.Secrets {
		if !s.Pushed {
			names = append(names, s.Name)
		}
	}
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("The controller's image has the content of the secrets %s in it, until the swarm has them: keep the image, and the card until it has started.", enumerate(names))
}

// marks are how a step is shown.
var marks = map[string]string{workload.DoCreate: "+", workload.DoUpdate: "~", workload.DoRemove: "-", workload.DoLeave: "="}

func printWorkloadsPlan(w io.Writer, p *workload.Plan) {
	if p.Waiting != "" {
		printLine(w, "It waits first: %s.", strings.TrimSuffix(p.Waiting, "."))
	}
	if len(p.Steps) == 0 {
		if !p.Blocked() {
			printLine(w, "Nothing is to be done: the swarm has it all.")
		}
		return
	}
	counts := map[string]int{}
	for _, s := range p.Steps {
		counts[s.Do]++
		mark, known := marks[s.Do]
		if !known {
			mark = "?"
		}
		text := fmt.Sprintf("%s %-8s %s", mark, s.Kind, s.Name)
		if s.Why != "" {
			text += ": " + s.Why
		}
		printLine(w, "%s", text)
	}
	var sums []string
	for _, c := range []struct{ do, what string }{
		{workload.DoCreate, "to be made"}, {workload.DoUpdate, "to be updated"}, {workload.DoRemove, "to be removed"},
		{workload.DoLeave, "left as it is (--prune removes stacks that are declared no more)"},
	} {
		if n := counts[c.do]; n > 0 {
			sums = append(sums, fmt.Sprintf("%d %s", n, c.what))
		}
	}
	printLine(w, "%s.", strings.Join(sums, ", "))
}

// printWorkloadsProblems tells why applying would fail.
func printWorkloadsProblems(w io.Writer, p *workload.Plan) {
	for _, text := range p.Problems {
		fmt.Fprintln(w, "hatchery:", harmless(text))
	}
}

func printWorkloadsStatus(w io.Writer, s *workload.Status) {
	switch {
	case s.State == workload.StateNone:
		printLine(w, "No workloads are declared.")
	default:
		text := s.State
		if s.Detail != "" {
			text += ": " + s.Detail
		}
		if !s.Since.IsZero() {
			text += " (since " + s.Since.Local().Format(time.DateTime) + ")"
		}
		printLine(w, "Workloads: %s", text)
	}
	if len(s.Stacks) > 0 {
		const row = "%-20s  %-9s  %s"
		printLine(w, row, "STACK", "STATE", "DETAIL")
		for _, stack := range s.Stacks {
			detail := stack.Detail
			if stack.State == workload.StateOrphaned && detail == "" {
				detail = "declared no more: `hatchery workloads apply --prune` removes it"
			}
			printLine(w, row, stack.Name, stack.State, dash(detail))
			for _, x := range stack.Services {
				printLine(w, "  %-28s  %d/%d  %-10s  %s", x.Name, x.Running, x.Desired, dash(x.Mode), x.Image)
			}
		}
	}
	for _, part := range []struct {
		name    string
		objects []workload.ObjectStatus
	}{{"network", s.Networks}, {"secret", s.Secrets}, {"config", s.Configs}} {
		for _, o := range part.objects {
			printLine(w, "%-8s  %-20s  %s", part.name, o.Name, objectStands(part.name, o))
		}
	}
}

// objectStands is where a network, a secret or a config stands, in words.
func objectStands(kind string, o workload.ObjectStatus) string {
	switch {
	case o.Others:
		return "somebody made it; it is used as it is"
	case o.InSwarm == o.Name:
		return "in the swarm"
	case o.InSwarm != "":
		return "in the swarm as " + o.InSwarm
	case o.Pushed:
		push := "hatchery secrets push " + o.Name
		if kind == "config" {
			push += " --config"
		}
		return "missing: `" + push + "` brings it"
	}
	return "not in the swarm yet"
}
