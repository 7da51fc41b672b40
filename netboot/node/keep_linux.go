package node

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/netboot/node/dm"
	"hatchery/netboot/node/link"
	"hatchery/netboot/node/nbdclient"
	"hatchery/netboot/node/nbdlink"
	"hatchery/netboot/node/retry"
	"hatchery/netboot/node/rootdisk"
)

// KeeperName is the name of the process that stays behind. systemd spares what
// begins with @ when it kills everything at shutdown, as the root file system
// needs it to the very end (systemd.io/ROOT_STORAGE_DAEMONS).
const KeeperName = "@hatchery-nodeinit"

// What the keeper inherits.
const (
	keeperSocket   = 3 // the connection that the kernel has
	keeperCommands = 4 // lines from init
	keeperAnswers  = 5 // a line back for each
)

// keeperSettings are what the keeper is told, as its arguments: any reader of
// /proc may see them.
type keeperSettings struct {
	slot     int
	own      netip.Prefix
	server   netip.AddrPort
	export   string
	size     int64
	readOnly bool
	// The root file system: a disk with another one is not attached in this
	// one's place.
	root int64 // where it begins
	uuid string
}

func (k keeperSettings) arguments() []string {
	return []string{
		KeeperName, strconv.Itoa(k.slot), k.own.String(), k.server.String(), k.export,
		strconv.FormatInt(k.size, 10), strconv.FormatBool(k.readOnly), strconv.FormatInt(k.root, 10), k.uuid,
	}
}

func parseKeeper(arguments []string) (k keeperSettings, err error) {
	if len(arguments) != 9 {
		return k, fmt.Errorf("%s is started by init only", KeeperName)
	}
	a := arguments[1:]
	errs := make([]error, 6)
	k.slot, errs[0] = strconv.Atoi(a[0])
	k.own, errs[1] = netip.ParsePrefix(a[1])
	k.server, errs[2] = netip.ParseAddrPort(a[2])
	k.export = a[3]
	k.size, errs[3] = strconv.ParseInt(a[4], 10, 64)
	k.readOnly, errs[4] = strconv.ParseBool(a[5])
	k.root, errs[5] = strconv.ParseInt(a[6], 10, 64)
	k.uuid = a[7]
	return k, errors.Join(errs...)
}

// start starts the keeper, which has the connection from then on.
func (k keeperSettings) start(c *connection) (*keeperHandle, error) {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(null)
	trace, err := unix.Open("/dev/kmsg", unix.O_WRONLY|unix.O_CLOEXEC, 0) // should it ever panic
	if err != nil {
		trace = null
	} else {
		defer unix.Close(trace)
	}
	var commands, answers [2]int
	if err := unix.Pipe2(commands[:], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	if err := unix.Pipe2(answers[:], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	h := &keeperHandle{commands: os.NewFile(uintptr(commands[1]), "commands"), answers: bufio.NewReader(os.NewFile(uintptr(answers[0]), "answers"))}
	defer unix.Close(commands[0])
	defer unix.Close(answers[1])
	h.pid, err = syscall.ForkExec("/proc/self/exe", k.arguments(), &syscall.ProcAttr{
		Dir: "/",
		// Its heap is some hundred kilobytes; collected often it stays so.
		Env:   []string{"GOGC=10", "GOMAXPROCS=1", "GOTRACEBACK=single"},
		Files: []uintptr{uintptr(null), uintptr(null), uintptr(trace), uintptr(c.fd), uintptr(commands[0]), uintptr(answers[1])},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return nil, fmt.Errorf("cannot start the process that keeps the connection: %w", err)
	}
	return h, h.answer()
}

// A keeperHandle is init's side.
type keeperHandle struct {
	pid      int
	commands *os.File
	answers  *bufio.Reader
}

func (h *keeperHandle) answer() error {
	line, err := h.answers.ReadString('\n')
	if err != nil {
		return fmt.Errorf("the process that keeps the connection has ended: %w", err)
	}
	if line = strings.TrimSpace(line); line != "ok" {
		return fmt.Errorf("the process that keeps the connection: %s", line)
	}
	return nil
}

func (h *keeperHandle) call(command string) error {
	if _, err := fmt.Fprintln(h.commands, command); err != nil {
		return fmt.Errorf("the process that keeps the connection does not listen: %w", err)
	}
	return h.answer()
}

// alive says whether the keeper runs.
func (h *keeperHandle) alive() bool {
	var status unix.WaitStatus
	pid, err := unix.Wait4(h.pid, &status, unix.WNOHANG, nil)
	return err == nil && pid == 0
}

// A keeper is the process that stays behind.
type keeper struct {
	keeperSettings
	conn    *connection
	nbd     *nbdlink.Conn
	watch   *nbdlink.Watch
	links   *link.Kernel
	journal *journal
	status  *os.File // /run/hatchery/link
	lost    int
	memory  *memoryGate
}

// Keep is the keeper's main function; arguments are the process's. It returns
// only where it cannot even begin.
func Keep(arguments []string) error {
	k := &keeper{}
	answers := os.NewFile(keeperAnswers, "answers")
	err := k.begin(arguments)
	if err != nil {
		fmt.Fprintln(answers, err)
		return err
	}
	fmt.Fprintln(answers, "ok")
	commands := make(chan string)
	go func() {
		defer close(commands)
		lines := bufio.NewScanner(os.NewFile(keeperCommands, "commands"))
		for lines.Scan() {
			commands <- lines.Text()
		}
	}()
	for turn := 0; ; turn++ {
		pause := time.Second
		if commands != nil { // init waits for answers
			pause = 20 * time.Millisecond
		}
		k.guarded(func() { k.turn(turn, pause) })
		select {
		case command, ok := <-commands:
			if !ok {
				commands = nil
				answers.Close()
				break
			}
			err := k.command(command)
			if err != nil {
				fmt.Fprintln(answers, err)
			} else {
				fmt.Fprintln(answers, "ok")
			}
		default:
		}
	}
}

// guarded has a mistake in this program not end it: without it the root file
// system would be lost.
func (k *keeper) guarded(f func()) {
	defer func() {
		if r := recover(); r != nil {
			k.journal.say("a mistake in nodeinit: %v", r)
			time.Sleep(time.Second)
		}
	}()
	f()
}

// ioFlusher is prctl's PR_SET_IO_FLUSHER: what this process allocates must not
// wait for memory to be written to the very disk that it attaches.
const ioFlusher = 57

func (k *keeper) begin(arguments []string) (err error) {
	k.journal = openJournal()
	if k.keeperSettings, err = parseKeeper(arguments); err != nil {
		return err
	}
	// All that has a default which ends a process, but not what the runtime
	// lives by.
	ignored := []os.Signal{
		syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGPIPE, syscall.SIGALRM, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2,
		syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU, syscall.SIGPWR, syscall.SIGVTALRM, syscall.SIGXCPU, syscall.SIGXFSZ, syscall.SIGIO,
		syscall.SIGWINCH, syscall.SIGSTKFLT,
	}
	for s := syscall.Signal(35); s <= 64; s++ {
		ignored = append(ignored, s)
	}
	signal.Ignore(ignored...)
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0o644); err != nil {
		k.journal.say("the keeper of the connection can be killed for want of memory: %v", err)
	}
	// Only what is touched: a Go program of this size grows to 85 MB else.
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		k.journal.say("the keeper of the connection can be swapped out: %v", err)
	}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, ioFlusher, 1, 0); errno != 0 && errno != unix.EINVAL {
		k.journal.say("the keeper of the connection may wait for the disk: %v", errno)
	}
	k.conn = &connection{fd: keeperSocket}
	unix.CloseOnExec(keeperSocket)
	if k.nbd, err = nbdlink.Dial(); err != nil {
		return err
	}
	if k.links, err = link.Open(); err != nil {
		return err
	}
	if k.watch, err = k.nbd.Watch(0); err != nil {
		k.journal.say("%v: the connection is looked at every second", err)
	}
	if k.status, err = os.OpenFile(LinkStatus, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o644); err != nil {
		k.journal.say("%v", err)
	}
	k.tell("connected")
	return nil
}

// tell writes how the connection stands to /run, for programs.
func (k *keeper) tell(state string) {
	if k.status == nil {
		return
	}
	text := fmt.Sprintf("state: %s\nsince: %.2f s after the kernel's start\nserver: %s\nexport: %s\nlost: %d times\n",
		state, uptime().Seconds(), k.server, k.export, k.lost)
	if k.status.Truncate(0) == nil {
		k.status.WriteAt([]byte(text), 0)
	}
}

// turn waits for so long for the connection's end, and mends what has broken.
func (k *keeper) turn(turn int, pause time.Duration) {
	if k.watch != nil {
		k.watch.Dead(pause)
	} else {
		time.Sleep(pause)
	}
	// What the kernel tells only wakes: it shuts a connection that it takes for
	// dead, and what it tells may be of one that was replaced since.
	dead := !k.conn.established()
	switch {
	case dead:
		k.reconnect()
	case turn%5 == 0:
		// An interface that was made anew has neither VLAN nor address.
		if _, done, err := k.links.Ensure(k.slot, k.own); err == nil && len(done) > 0 {
			k.journal.say("mended the link: %s", strings.Join(done, ", "))
		}
	}
	if k.memory != nil {
		k.memory.turn(k.journal)
	}
}

// reconnect opens the export again until the kernel has taken the connection.
func (k *keeper) reconnect() {
	k.lost++
	began := time.Now()
	k.journal.say("the connection to %s is lost: what is read and written waits", k.server)
	k.tell("lost")
	teller := retry.Teller{}
	teller.Tell(0, "")
	policy := retry.Policy{First: 200 * time.Millisecond, Longest: 3 * time.Second}
	for attempt := 1; ; attempt++ {
		err := k.attempt()
		waited := time.Since(began)
		if err == nil {
			k.journal.say("connected to %s again after %.1f s", k.server, waited.Seconds())
			k.tell("connected")
			return
		}
		if teller.Tell(waited, err.Error()) {
			k.journal.say("not connected for %.0f s: %v", waited.Seconds(), err)
		}
		time.Sleep(policy.Pause(attempt))
	}
}

func (k *keeper) attempt() error {
	// What can be mended of the link is mended; the connection says whether it
	// was enough.
	_, done, lerr := k.links.Ensure(k.slot, k.own)
	if len(done) > 0 {
		k.journal.say("mended the link: %s", strings.Join(done, ", "))
	}
	c, e, err := open(k.own.Addr(), k.server, k.export)
	if err != nil {
		return errors.Join(err, lerr)
	}
	err = k.same(c, e)
	if err == nil {
		err = k.nbd.Reconfigure(0, c.fd)
		for tries := 0; tries < 20 && errors.Is(err, nbdlink.ErrAlive); tries++ {
			k.conn.shutdown() // the kernel sees it end
			time.Sleep(50 * time.Millisecond)
			err = k.nbd.Reconfigure(0, c.fd)
		}
	}
	if err != nil {
		c.Close()
		if errors.Is(err, nbdlink.ErrDetached) {
			err = fmt.Errorf("%w: the root file system is gone for good, power-cycle the node", err)
		}
		return err
	}
	k.conn.Close()
	k.conn = c
	return nil
}

// ErrOther is a disk that is not the one that is attached.
var ErrOther = errors.New("the server gives another disk under this name, which is not taken in the place of the one in use: power-cycle the node")

// same says whether what the server has is the disk that the kernel has.
func (k *keeper) same(c *connection, e nbdclient.Export) error {
	if e.Size != k.size || e.ReadOnly() != k.readOnly {
		return fmt.Errorf("%w (%d bytes, read-only %v; it was %d, %v)", ErrOther, e.Size, e.ReadOnly(), k.size, k.readOnly)
	}
	uuid, err := rootdisk.UUID(nbdclient.NewReader(c, e), k.root)
	if err != nil {
		return err
	}
	if uuid != k.uuid {
		return fmt.Errorf("%w (its root is %s; it was %s)", ErrOther, uuid, k.uuid)
	}
	return nil
}

func (k *keeper) command(line string) error {
	words := strings.Fields(line)
	if len(words) != 4 || words[0] != "memory" {
		return fmt.Errorf("unknown command %q", line)
	}
	memory, err := strconv.ParseInt(words[3], 10, 64)
	if err != nil {
		return err
	}
	k.memory, err = openGate(words[1], words[2], memory)
	return err
}

// A memoryGate sees to it that an ephemeral root is full, which programs know,
// before its store is, which would be its end.
type memoryGate struct {
	control  *dm.Control
	root     int      // the root's folder
	zram     *os.File // what it takes of the memory
	pending  *os.File // blocks that are spoken for
	reserved *os.File // blocks that are not given out
	memory   int64
	last     int64
	failed   bool
}

// openGate opens what the gate needs, for the time when nothing has a path any
// more: root is where the root is mounted, device its name in sysfs, memory
// what is to be used.
func openGate(root, device string, memory int64) (*memoryGate, error) {
	g := &memoryGate{memory: memory, last: -1}
	var err error
	if g.control, err = dm.Open(); err != nil {
		return nil, err
	}
	if g.root, err = unix.Open(root, unix.O_PATH|unix.O_CLOEXEC|unix.O_DIRECTORY, 0); err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", root, err)
	}
	if g.zram, err = os.Open("/sys/block/zram0/mm_stat"); err != nil {
		return nil, err
	}
	dir := "/sys/fs/ext4/" + device
	if g.pending, err = os.Open(dir + "/delayed_allocation_blocks"); err != nil {
		return nil, err
	}
	if g.reserved, err = os.OpenFile(dir+"/reserved_clusters", os.O_RDWR, 0); err != nil {
		return nil, err
	}
	return g, g.set()
}

// set has the file system keep back what the memory cannot take.
func (g *memoryGate) set() error {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(g.root, &fs); err != nil {
		return err
	}
	status, err := g.control.Status(rootName)
	if err != nil {
		return err
	}
	if len(status) != 1 {
		return fmt.Errorf("%s has %d targets", rootName, len(status))
	}
	used, total, ok := dm.Usage(status[0].Params)
	if !ok {
		return errors.New("the memory of the ephemeral root is used up (the kernel: " + status[0].Params + "), nothing can be read or written any more: power-cycle the node")
	}
	text := make([]byte, 256)
	n, _ := g.zram.ReadAt(text, 0)
	left := dm.Left(used, total, string(text[:n]), g.memory)
	n, _ = g.pending.ReadAt(text, 0)
	block := int64(fs.Bsize)
	pending, err := strconv.ParseInt(strings.TrimSpace(string(text[:n])), 10, 64)
	if err != nil || pending < 0 {
		pending = 0
	}
	reserve := dm.Reserve(int64(fs.Bfree)*block, left, pending*block) / block
	if reserve == g.last {
		return nil
	}
	if _, err := g.reserved.WriteAt([]byte(strconv.FormatInt(reserve, 10)), 0); err != nil {
		return fmt.Errorf("cannot keep the root within its memory: %w", err)
	}
	g.last = reserve
	return nil
}

// turn says once what is wrong, and once when it is right again.
func (g *memoryGate) turn(j *journal) {
	err := g.set()
	if err != nil && !g.failed {
		j.say("%v", err)
	}
	g.failed = err != nil
}
