package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"hatchery/controller/operation"
	"hatchery/internal/clusterctrl"
	"hatchery/internal/enrol"
	"hatchery/internal/progress"
)

// operationFlags are those of rebuild and upgrade.
type operationFlags struct {
	*station
	request operation.Request
	asks    bool // before it begins, and does not begin where nobody can be asked

	undo, plan, yes              bool
	detach, follow, cancel, list bool
}

func (f *operationFlags) register(c *cobra.Command) {
	f.flags(c)
	flags := c.Flags()
	flags.BoolVar(&f.request.Now, "now", false, "do not wait until the node's tasks have gone elsewhere")
	flags.DurationVar(&f.request.DrainTimeout, "drain-timeout", 5*time.Minute, "how `LONG` they may take for that")
	flags.IntVar(&f.request.MaxUnavailable, "max-unavailable", 1, "how many slots are at work side by side")
	flags.BoolVar(&f.request.Continue, "continue", false, "the slots that the last one did not get done")
	flags.BoolVar(&f.detach, "detach", false, "begin it, and return")
	flags.BoolVar(&f.follow, "follow", false, "begin nothing: look on at the one that is at work, or at the one that is named")
	flags.BoolVar(&f.cancel, "cancel", false, "begin nothing: end the one that is at work, or the one that is named")
	flags.BoolVar(&f.list, "list", false, "begin nothing: show the last ones")
	flags.BoolVarP(&f.yes, "yes", "y", false, "do not ask")
}

// anew has a request that continues another say the flags that are given here, and no
// others.
func (f *operationFlags) anew(c *cobra.Command) {
	flags := c.Flags()
	if !flags.Changed("drain-timeout") {
		f.request.DrainTimeout = 0 // the service has the same
	}
	if !f.request.Continue {
		return
	}
	if !flags.Changed("max-unavailable") {
		f.request.MaxUnavailable = 0
	}
	f.request.Anew = nil
	for _, name := range []string{"now", "keep", "wait"} {
		if flags.Changed(name) {
			f.request.Anew = append(f.request.Anew, name)
		}
	}
}

// run is the whole command.
func (f *operationFlags) run(c *cobra.Command, args []string) error {
	if err := f.take(c, args); err != nil {
		return err
	}
	f.anew(c)
	// What is asked on a terminal is asked there, by the one on the controller.
	words := append([]string{c.Name()}, args...)
	c.Flags().Visit(func(flag *pflag.Flag) {
		if own := []string{"on", "output", "socket", "file", "quiet", "json"}; !slices.Contains(own, flag.Name) {
			words = append(words, "--"+flag.Name+"="+flag.Value.String())
		}
	})
	if f.settings.quiet {
		words = append(words, "--quiet")
	}
	return f.station.run(c, words, func(ctx context.Context) error {
		client := operation.Client{Caller: f.service()}
		switch {
		case f.list:
			return f.show(ctx, c, client)
		case f.follow, f.cancel:
			id, err := f.named(ctx, client, args)
			if err != nil {
				return err
			}
			if f.cancel {
				return f.end(ctx, c, client, id)
			}
			return f.lookOn(ctx, c, client, id)
		}
		return f.begin(ctx, c, client)
	})
}

// take sees that the flags go together, and reads the slots.
func (f *operationFlags) take(c *cobra.Command, args []string) error {
	others := 0
	for _, on := range []bool{f.follow, f.cancel, f.list, f.plan} {
		if on {
			others++
		}
	}
	if f.undo {
		f.request.Kind = operation.Undo
	}
	switch {
	case others > 1:
		return usageError{errors.New("--follow, --cancel, --list and --plan do not go together")}
	case f.list && len(args) > 0:
		return usageError{errors.New("--list takes no slots")}
	case f.follow || f.cancel:
		if len(args) > 1 {
			return usageError{fmt.Errorf("name one operation, as `%s --list` shows it, or none", c.CommandPath())}
		}
		return nil
	case f.list:
		return nil
	}
	if f.request.MaxUnavailable < 1 {
		return usageError{errors.New("--max-unavailable is 1 at the least")}
	}
	if f.request.DrainTimeout <= 0 {
		return usageError{errors.New("--drain-timeout is a time such as 5m; --now does not wait at all")}
	}
	if (f.request.All || f.request.Continue) && len(args) > 0 || f.request.All && f.request.Continue {
		return usageError{errors.New("name slots, or say --all, or --continue")}
	}
	if f.request.Kind == operation.Rebuild && len(args) == 0 && !f.request.All && !f.request.Continue {
		return usageError{errors.New("name the slots: `hatchery rebuild p2`, or say --all")}
	}
	f.request.Slots = nil
	for _, name := range args {
		if name == "controller" {
			return usageError{errors.New("the controller is not rebuilt from here: its card is written anew, and it gets the swarm back from its nodes (docs/rebuild.md, \"The controller\")")}
		}
		slot, err := clusterctrl.ParseSlot(name)
		if err != nil {
			return usageError{err}
		}
		f.request.Slots = append(f.request.Slots, slot)
	}
	f.request.By = somebody()
	return nil
}

// somebody names who sits here, for others.
func somebody() string {
	name := os.Getenv("SUDO_USER")
	if name == "" {
		name = os.Getenv("USER")
	}
	if host, err := os.Hostname(); err == nil && name != "" {
		return name + "@" + host
	}
	return name
}

// begin begins an operation, and looks on.
func (f *operationFlags) begin(ctx context.Context, c *cobra.Command, client operation.Client) error {
	plans, err := client.Plans(ctx, f.request)
	var refused *enrol.Error
	if errors.As(err, &refused) && refused.Code == operation.CodeNothing {
		return f.nothing(c, refused.Detail)
	}
	if err != nil {
		return operationRefused(err)
	}
	if f.plan && f.settings.json {
		return printJSON(c.OutOrStdout(), plans)
	}
	out := c.ErrOrStderr()
	if f.plan {
		out = c.OutOrStdout()
	}
	if f.plan || !f.settings.json {
		printPlans(out, f.request, plans)
	}
	if f.plan {
		return nil
	}
	for _, p := range plans {
		if p.Refused != "" && !f.settings.json {
			return errReported // it stands in the plan
		}
	}
	// Scripts have said what they want; whoever sits at a terminal reads first what is lost.
	if !f.yes && (f.asks || !f.settings.json) {
		if err := f.sure(ctx, c); err != nil {
			return err
		}
	}
	op, err := client.Start(ctx, f.request)
	switch {
	case errors.As(err, &refused) && refused.Code == operation.CodeNothing:
		return f.nothing(c, refused.Detail)
	case errors.As(err, &refused) && refused.Code == operation.CodeBusy:
		if op = f.same(ctx, client); op == nil {
			return operationRefused(err)
		}
		printLine(c.ErrOrStderr(), "%s is at work on that already, since %s.", op.ID, op.Began.Local().Format(time.TimeOnly))
	case err != nil:
		return operationRefused(err)
	}
	if f.detach {
		if f.settings.json {
			return printJSON(c.OutOrStdout(), op)
		}
		return printLine(c.OutOrStdout(), "%s goes on on the controller: `%s --follow %s` shows it.", op.ID, c.CommandPath(), op.ID)
	}
	return f.lookOn(ctx, c, client, op.ID)
}

// sure asks whether to go on.
func (f *operationFlags) sure(ctx context.Context, c *cobra.Command) error {
	p := stdinPrompt(c)
	switch {
	case p == nil && f.asks:
		return usageError{errors.New("nobody can be asked here: say --yes")}
	case p == nil:
		return nil
	}
	answer, err := p.line(ctx, "Go on? [y/N]")
	if err != nil {
		return err
	}
	if answer != "y" && answer != "yes" {
		return errors.New("nothing was done")
	}
	return nil
}

// nothing says that there is nothing to do.
func (f *operationFlags) nothing(c *cobra.Command, text string) error {
	switch {
	case f.settings.json && f.plan:
		return printJSON(c.OutOrStdout(), []operation.Plan{})
	case f.settings.json:
		return printJSON(c.OutOrStdout(), nil)
	}
	return printLine(c.OutOrStdout(), "%s", strings.ToUpper(text[:1])+text[1:]+".")
}

// same is an operation at work that is the very same, of the same person: that is
// gone on with.
func (f *operationFlags) same(ctx context.Context, client operation.Client) *operation.Operation {
	list, err := client.List(ctx)
	if err != nil {
		return nil
	}
	slots := slices.Clone(f.request.Slots)
	slices.Sort(slots)
	for _, op := range list {
		if !op.Over() && op.Request.Kind == f.request.Kind && op.Request.By == f.request.By && slices.Equal(op.Request.Slots, slices.Compact(slots)) {
			return op
		}
	}
	return nil
}

// operationRefused is what the service refuses, in words.
func operationRefused(err error) error {
	var refused *enrol.Error
	if errors.As(err, &refused) && (refused.Code == operation.CodeRefused || refused.Code == operation.CodeBusy) {
		return errors.New(refused.Detail)
	}
	return inWords(err)
}

// named is the operation that is meant: the one that is named, or the only one at
// work, or where one is to be looked at, the last.
func (f *operationFlags) named(ctx context.Context, client operation.Client, args []string) (string, error) {
	if len(args) > 0 {
		return args[0], nil
	}
	list, err := client.List(ctx)
	if err != nil {
		return "", err
	}
	var at []string
	for _, op := range list {
		if !op.Over() {
			at = append(at, op.ID)
		}
	}
	switch {
	case len(at) == 1:
		return at[0], nil
	case len(at) > 1:
		return "", usageError{fmt.Errorf("several are at work: name one of %s", strings.Join(at, ", "))}
	case f.follow && len(list) > 0:
		return list[0].ID, nil
	}
	return "", errors.New("nothing is at work")
}

// end has an operation end.
func (f *operationFlags) end(ctx context.Context, c *cobra.Command, client operation.Client, id string) error {
	op, err := client.Cancel(ctx, id)
	if err != nil {
		return inWords(err)
	}
	if f.settings.json {
		return printJSON(c.OutOrStdout(), op)
	}
	if op.Over() {
		return printLine(c.OutOrStdout(), "%s was over already: %s.", op.ID, op.State)
	}
	return printLine(c.OutOrStdout(), "%s ends where it may: a root of which something is written is brought to its end first, or given up when that does not get on for an hour. `%s --follow %s` shows it.", op.ID, c.CommandPath(), op.ID)
}

// lookOn shows an operation until it is over. Whoever leaves leaves it at work.
func (f *operationFlags) lookOn(ctx context.Context, c *cobra.Command, client operation.Client, id string) error {
	shown := &operationProgress{display: f.settings.display(c), tasks: map[string]*shownTask{}}
	op, err := client.Follow(ctx, id, shown.show)
	shown.close(err)
	if ctx.Err() != nil {
		return fmt.Errorf("%s goes on on the controller: `%s --follow %s` looks on again, `%s --cancel %s` ends it", id, c.CommandPath(), id, c.CommandPath(), id)
	}
	if err != nil {
		return inWords(err)
	}
	if f.settings.json {
		if err := printJSON(c.OutOrStdout(), op); err != nil {
			return err
		}
	} else {
		printOperation(c.OutOrStdout(), op)
	}
	switch op.State {
	case operation.Done:
		return nil
	case operation.Cancelled:
		return fmt.Errorf("%s was cancelled", op.ID)
	}
	return fmt.Errorf("%s failed: %s", op.ID, op.Error)
}

// show prints the last operations.
func (f *operationFlags) show(ctx context.Context, c *cobra.Command, client operation.Client) error {
	list, err := client.List(ctx)
	if err != nil {
		return err
	}
	if f.settings.json {
		return printJSON(c.OutOrStdout(), list)
	}
	if len(list) == 0 {
		return printLine(c.OutOrStdout(), "Nothing was rebuilt or upgraded yet.")
	}
	for _, op := range list {
		var names []string
		for _, sl := range op.Slots {
			names = append(names, sl.Name)
		}
		line := fmt.Sprintf("%-12s  %s  %-10s  %s", op.ID, op.Began.Local().Format(time.DateTime), op.State, strings.Join(names, " "))
		if op.Request.By != "" {
			line += ", by " + op.Request.By
		}
		if op.Error != "" {
			line += ": " + op.Error
		}
		printLine(c.OutOrStdout(), "%s", line)
	}
	return nil
}

// printPlans tells what is about to be done.
func printPlans(w io.Writer, r operation.Request, plans []operation.Plan) {
	if len(plans) > 0 && plans[0].Continues != "" {
		printLine(w, "Goes on with %s.", plans[0].Continues)
	}
	for _, p := range plans {
		if p.Refused != "" {
			printLine(w, "%s: no: %s", p.Name, p.Refused)
			continue
		}
		text := p.Name + " (" + p.Kind + ")"
		switch {
		case r.Kind == operation.Undo:
			text += fmt.Sprintf(": back to %s, from %s", shortRoot(p.Previous), shortRoot(p.Current))
		case r.Kind == operation.Upgrade && p.Next == p.Current:
			text += ": has what was pushed for it"
		case r.Kind == operation.Upgrade:
			text += fmt.Sprintf(": from %s to %s", shortRoot(p.Current), shortRoot(p.Next))
		default:
			text += ": as on its first day"
		}
		if p.Bytes > 0 {
			text += fmt.Sprintf(", %d MB are written", (p.Bytes+999_999)/1_000_000)
		}
		printLine(w, "%s", text)
		for _, lost := range p.Discards {
			printLine(w, "    lost: %s", lost)
		}
		for _, kept := range p.Keeps {
			printLine(w, "    kept: %s", kept)
		}
	}
}

// shortRoot is a root's name, short enough for people.
func shortRoot(name string) string {
	if name == "" {
		return "what nobody knows"
	}
	_, digest, is := strings.Cut(name, "sha256:")
	if is {
		name = digest
	}
	return name[:min(len(name), 12)]
}

// printOperation says how an operation ended.
func printOperation(w io.Writer, op *operation.Operation) {
	for _, sl := range op.Slots {
		text := sl.Name + ": " + sl.Step
		switch {
		case sl.Step == operation.StepDone && op.Request.Kind == operation.Undo:
			text = sl.Name + " went back, and is Ready."
		case sl.Step == operation.StepDone:
			text = sl.Name + " is Ready."
		case sl.Error != "" && sl.Undone && sl.Returned:
			text += ", and went back: " + sl.Error
		case sl.Error != "":
			text += ": " + sl.Error
		case sl.Detail != "":
			text += ": " + sl.Detail
		}
		printLine(w, "%s", text)
		for _, note := range sl.Notes {
			printLine(w, "    %s", note)
		}
	}
}

// operationProgress shows where an operation stands, a piece of work for each step
// of each slot.
type operationProgress struct {
	display interface {
		progress.Reporter
		Close()
	}
	tasks map[string]*shownTask // by the slots' names
}

type shownTask struct {
	progress.Task
	key   string
	begun time.Time
	text  string
}

// showAgain is how often numbers that run are shown.
const showAgain = 15 * time.Second

func (o *operationProgress) show(op *operation.Operation) {
	for _, sl := range op.Slots {
		if sl.Step == operation.StepQueued {
			continue
		}
		text := sl.Name + ": " + sl.Step
		for _, more := range []string{sl.Part, sl.Detail} {
			if more != "" {
				text += ": " + more
			}
		}
		over := sl.Step == operation.StepDone || sl.Step == operation.StepFailed || sl.Step == operation.StepCancelled
		// Numbers in it run.
		key := strings.Map(func(r rune) rune {
			if r >= '0' && r <= '9' {
				return -1
			}
			return r
		}, text)
		was := o.tasks[sl.Name]
		if was != nil && !over && was.key == key && (was.text == text || time.Since(was.begun) < showAgain) {
			continue
		}
		if was != nil {
			var err error
			if sl.Error != "" {
				err = errors.New(sl.Error)
			}
			was.End(err)
			delete(o.tasks, sl.Name)
		}
		if !over {
			o.tasks[sl.Name] = &shownTask{Task: o.display.Begin(text, -1), key: key, begun: time.Now(), text: text}
		}
	}
}

func (o *operationProgress) close(err error) {
	for _, task := range o.tasks {
		task.End(err)
	}
	o.display.Close()
}
