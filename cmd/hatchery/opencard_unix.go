//go:build linux || darwin

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hatchery/imagebuilder/drive"
)

// asUser runs this command again with the rights of the one who called sudo,
// so that keys, images and caches stay theirs; this process keeps root's, and
// does nothing with them but open cards. Done is false where nobody called sudo.
func asUser(ctx context.Context) (code int, done bool, err error) {
	if os.Geteuid() != 0 {
		return 0, false, nil
	}
	id := os.Getenv("SUDO_UID")
	uid, err := strconv.ParseUint(id, 10, 32)
	if err != nil || uid == 0 {
		return 0, false, nil
	}
	who, err := user.LookupId(id)
	if err != nil {
		return 0, false, fmt.Errorf("cannot tell who called sudo: %w", err)
	}
	credential, err := credentialOf(who)
	if err != nil {
		return 0, false, fmt.Errorf("cannot give root's rights away: %w", err)
	}
	dir, err := os.MkdirTemp("", "hatchery-opener")
	if err != nil {
		return 0, false, err
	}
	defer os.RemoveAll(dir)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "socket"), Net: "unix"})
	if err != nil {
		return 0, false, err
	}
	defer listener.Close()
	for _, place := range []string{listener.Addr().String(), dir} {
		if err := os.Lchown(place, int(credential.Uid), int(credential.Gid)); err != nil {
			return 0, false, err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return 0, false, err
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential}
	for _, v := range os.Environ() {
		switch name, _, _ := strings.Cut(v, "="); {
		case strings.HasPrefix(name, "SUDO_"), name == "HOME", name == "USER", name == "LOGNAME", name == openerVariable:
		default:
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, "HOME="+who.HomeDir, "USER="+who.Username, "LOGNAME="+who.Username, openerVariable+"="+listener.Addr().String())
	if err := cmd.Start(); err != nil {
		return 0, false, err
	}
	// An interrupt from the terminal reaches both: it is for the other one, which must not be
	// started with it ignored.
	signal.Ignore(os.Interrupt)
	defer signal.Reset(os.Interrupt)
	stop := context.AfterFunc(ctx, func() { cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	opening, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	go serveRelays(opening, listener, cmd.Process.Pid)
	err = cmd.Wait()
	var exited *exec.ExitError
	if errors.As(err, &exited) && exited.Exited() {
		return exited.ExitCode(), true, nil
	}
	return 0, err == nil, err
}

// credentialOf are a user's rights, without root's groups.
func credentialOf(u *user.User) (*syscall.Credential, error) {
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	c := &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	groups, err := u.GroupIds()
	if err != nil {
		return nil, err
	}
	for _, g := range groups {
		id, err := strconv.ParseUint(g, 10, 32)
		if err != nil {
			return nil, err
		}
		c.Groups = append(c.Groups, uint32(id))
	}
	return c, nil
}

// serveRelays opens cards for those who send the socket to hand them over by.
//
// That is the flash with the process number, by a process of its own: what else
// the user runs has no business here.
func serveRelays(ctx context.Context, listener *net.UnixListener, flash int) {
	for {
		conn, err := listener.AcceptUnix()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			if parent, err := parentOfPeer(conn); err != nil || parent != flash {
				return
			}
			socket, err := receiveFile(conn)
			if err != nil {
				return
			}
			defer socket.Close()
			if err := drive.ServeOpener(ctx, socket); err != nil && ctx.Err() == nil {
				fmt.Fprintln(os.Stderr, "hatchery:", harmless(err.Error()))
			}
		}()
	}
}

// relayTime is how long handing a socket over may take.
const relayTime = 10 * time.Second

// receiveFile takes the one file that comes over a connection.
func receiveFile(conn *net.UnixConn) (*os.File, error) {
	conn.SetDeadline(time.Now().Add(relayTime))
	defer conn.SetDeadline(time.Time{})
	rights := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 1), rights)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(rights[:n])
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for i := range messages {
		numbers, _ := unix.ParseUnixRights(&messages[i])
		for _, number := range numbers {
			unix.CloseOnExec(number)
			files = append(files, os.NewFile(uintptr(number), "opener's socket"))
		}
	}
	if len(files) != 1 {
		for _, f := range files {
			f.Close()
		}
		return nil, fmt.Errorf("%d files came, not one", len(files))
	}
	return files[0], nil
}

// parentOfPeer is the process that started the one at the other end.
func parentOfPeer(conn *net.UnixConn) (parent int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	if controlErr := raw.Control(func(fd uintptr) { parent, err = parentOf(int(fd)) }); controlErr != nil {
		return 0, controlErr
	}
	return parent, err
}

// relay sends a socket to the process that opens cards, and stays until that is
// done with it.
func relay(place string, socket *os.File) error {
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: place, Net: "unix"})
	if err != nil {
		return fmt.Errorf("the process that opens cards does not answer: %w", err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(relayTime))
	if _, _, err := conn.WriteMsgUnix([]byte{0}, unix.UnixRights(int(socket.Fd())), nil); err != nil {
		return err
	}
	conn.SetDeadline(time.Time{})
	_, _ = conn.Read(make([]byte, 1)) // until it is closed
	return nil
}
