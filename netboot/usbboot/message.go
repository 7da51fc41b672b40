package usbboot

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"strings"
	"unicode/utf8"
)

// A Command is what a board wants of a file.
type Command int32

// The commands of the protocol.
const (
	GetFileSize Command = 0
	ReadFile    Command = 1
	Done        Command = 2
)

// String is the command's name in the protocol.
func (c Command) String() string {
	switch c {
	case GetFileSize:
		return "GetFileSize"
	case ReadFile:
		return "ReadFile"
	case Done:
		return "Done"
	}
	return fmt.Sprintf("command %d", int32(c))
}

// Sizes of what goes over the wire, in bytes.
const (
	messageSize = 260 // of a file message
	nameSize    = 256 // of the name in it
	headerSize  = 24  // in front of bootcode.bin
	statusSize  = 4   // the boot ROM's answer
)

// ErrProtocol says that the device said something that the protocol does not know.
var ErrProtocol = errors.New("the device does not keep to the protocol")

// A Message is what a board asks for. Name is as the board wrote it: it is not
// to be opened before [CleanName] has seen it.
type Message struct {
	Command Command
	Name    string
}

// ParseMessage reads a file message. One that is cut short is taken if its name is
// whole. An empty name means [Done], whatever the command. A command that there is
// not is [ErrProtocol]. A name that fills all of its 256 bytes is given as it is:
// [CleanName] refuses it, and the board hears that there is no such file.
func ParseMessage(b []byte) (Message, error) {
	if len(b) > messageSize {
		return Message{}, fmt.Errorf("%w: a message of %d bytes, where %d are the most", ErrProtocol, len(b), messageSize)
	}
	if len(b) < 5 {
		return Message{}, fmt.Errorf("%w: a message of %d bytes, where %d were expected", ErrProtocol, len(b), messageSize)
	}
	command := Command(int32(binary.LittleEndian.Uint32(b)))
	name, _, ended := bytes.Cut(b[4:], []byte{0})
	if !ended && len(b) < messageSize {
		return Message{}, fmt.Errorf("%w: a message of %d bytes, where %d were expected", ErrProtocol, len(b), messageSize)
	}
	if len(name) == 0 {
		return Message{Command: Done}, nil
	}
	switch command {
	case GetFileSize, ReadFile, Done:
	default:
		return Message{}, fmt.Errorf("%w: %v, which there is not", ErrProtocol, command)
	}
	return Message{Command: command, Name: string(name)}, nil
}

// CleanName gives the path of the file that a board asks for, from the root of the
// boot partition, or the reason why no such file can be: names that lead out of it
// ("..", a leading slash, a backslash, a drive), that are not text, or that fill
// all of the message. Names that begin with * are not files: newer chips report on
// themselves that way.
func CleanName(name string) (string, error) {
	switch {
	case name == "":
		return "", errors.New("it is empty")
	case len(name) >= nameSize:
		return "", errors.New("it does not end")
	case !utf8.ValidString(name):
		return "", errors.New("it is not UTF-8")
	case strings.HasPrefix(name, "/"):
		return "", errors.New("it is absolute")
	case strings.HasPrefix(name, "*"):
		return "", errors.New("it is not a file's")
	}
	for _, r := range name {
		if r < ' ' || r == 0x7f || strings.ContainsRune(`\:`, r) {
			return "", fmt.Errorf("%q may not be part of it", r)
		}
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", errors.New("it leads out of the boot partition")
		}
	}
	clean := path.Clean(name)
	if clean == "." {
		return "", errors.New("it is the folder itself")
	}
	return clean, nil
}
