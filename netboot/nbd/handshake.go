package nbd

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
)

// A handshake negotiates what a connection is for.
type handshake struct {
	c        *conn
	in       *bufio.Reader
	noZeroes bool
	// structured says that structured replies were agreed on; context, that
	// base:allocation was, for the export of that name.
	structured bool
	context    *string
	options    int
	refused    int // of them
}

// maxRefused is how many options may be refused before the handshake ends.
const maxRefused = 16

// An optionError ends an option, not the handshake.
type optionError struct {
	reply uint32
	text  string
}

func (e *optionError) Error() string { return e.text }

// negotiate leads the handshake. It gives a session that is to be run, or why
// there is none: an ErrDisconnected, if the client had enough.
func (h *handshake) negotiate() (*session, error) {
	var hello [18]byte
	be.PutUint64(hello[:], magicGreeting)
	be.PutUint64(hello[8:], magicOption)
	be.PutUint16(hello[16:], flagFixedNewstyle|flagNoZeroes)
	if _, err := h.c.net.Write(hello[:]); err != nil {
		return nil, err
	}
	var flags [4]byte
	if _, err := io.ReadFull(h.in, flags[:]); err != nil {
		return nil, err
	}
	f := be.Uint32(flags[:])
	if f&^(flagFixedNewstyle|flagNoZeroes) != 0 {
		return nil, violation("the handshake flags are %#x", f)
	}
	h.noZeroes = f&flagNoZeroes != 0
	for {
		s, err := h.option()
		if s != nil || err != nil {
			return s, err
		}
	}
}

// option does one option. A session ends the handshake.
func (h *handshake) option() (*session, error) {
	if h.options++; h.options > maxOptions {
		return nil, violation("more than %d options", maxOptions)
	}
	var head [optionSize]byte
	if _, err := io.ReadFull(h.in, head[:]); err != nil {
		if errors.Is(err, io.EOF) && h.options > 1 {
			err = ErrDisconnected // as some do that only ask
		}
		return nil, err
	}
	if got := be.Uint64(head[:]); got != magicOption {
		return nil, violation("an option begins with %#x", got)
	}
	opt, length := be.Uint32(head[8:]), be.Uint32(head[12:])
	if length > maxOption {
		if length > maxOptSkip || opt == optExportName {
			return nil, violation("option %d has %d bytes", opt, length)
		}
		if _, err := io.CopyN(io.Discard, h.in, int64(length)); err != nil {
			return nil, noEOF(err)
		}
		return nil, h.reply(opt, repErrTooBig, []byte("the option is too long"))
	}
	data := make([]byte, length)
	if _, err := io.ReadFull(h.in, data); err != nil {
		return nil, noEOF(err)
	}
	if h.c.server.TLSOnly && !h.c.secure && opt != optStartTLS && opt != optAbort {
		if opt == optExportName {
			return nil, violation("an export is asked for without TLS")
		}
		return nil, h.reply(opt, repErrTLSReqd, []byte("begin TLS first"))
	}
	s, err := h.do(opt, data)
	if refused, ok := errors.AsType[*optionError](err); ok {
		if err := h.reply(opt, refused.reply, []byte(refused.text)); err != nil {
			return nil, err
		}
		if h.refused++; h.refused >= maxRefused {
			return nil, violation("%d options were refused", h.refused)
		}
		return nil, nil
	}
	return s, err
}

func invalid(text string) error { return &optionError{repErrInvalid, text} }

func (h *handshake) do(opt uint32, data []byte) (*session, error) {
	switch opt {
	case optExportName:
		return h.exportName(data)
	case optAbort:
		// The client need not wait for the answer.
		_ = h.reply(opt, repAck, nil)
		return nil, ErrDisconnected
	case optList:
		return nil, h.list(data)
	case optStartTLS:
		return nil, h.startTLS(data)
	case optInfo, optGo:
		return h.info(opt, data)
	case optStructuredReply:
		if len(data) != 0 {
			return nil, invalid("the option has no data")
		}
		h.structured = true
		return nil, h.reply(opt, repAck, nil)
	case optListMetaContext, optSetMetaContext:
		return nil, h.metaContext(opt, data)
	}
	return nil, &optionError{repErrUnsup, "unknown option"}
}

// reply sends a reply to an option.
func (h *handshake) reply(opt, kind uint32, data []byte) error {
	p := make([]byte, optReplySize, optReplySize+len(data))
	be.PutUint64(p, magicReply)
	be.PutUint32(p[8:], opt)
	be.PutUint32(p[12:], kind)
	be.PutUint32(p[16:], uint32(len(data)))
	_, err := h.c.net.Write(append(p, data...))
	return err
}

// A cursor reads an option's data.
type cursor struct {
	p   []byte
	bad bool
}

func (c *cursor) bytes(n uint32) []byte {
	if uint64(n) > uint64(len(c.p)) {
		c.bad, c.p = true, nil
		return nil
	}
	out := c.p[:n]
	c.p = c.p[n:]
	return out
}

func (c *cursor) uint32() uint32 {
	if p := c.bytes(4); p != nil {
		return be.Uint32(p)
	}
	return 0
}

func (c *cursor) uint16() uint16 {
	if p := c.bytes(2); p != nil {
		return be.Uint16(p)
	}
	return 0
}

func (c *cursor) string() string { return string(c.bytes(c.uint32())) }

// whole says whether all of the data was read, and nothing beyond.
func (c *cursor) whole() bool { return !c.bad && len(c.p) == 0 }

// parseInfo reads the data of INFO and GO: a name, and which information is
// asked for besides the export's.
func parseInfo(data []byte) (name string, wanted []uint16, err error) {
	c := cursor{p: data}
	name = c.string()
	for n := c.uint16(); n > 0 && !c.bad; n-- {
		wanted = append(wanted, c.uint16())
	}
	if !c.whole() {
		return "", nil, invalid("the option's data does not add up")
	}
	if len(name) > maxName {
		return "", nil, &optionError{repErrTooBig, "the name is too long"}
	}
	return name, wanted, nil
}

// parseContexts reads the data of LIST_META_CONTEXT and SET_META_CONTEXT.
func parseContexts(data []byte) (name string, queries []string, err error) {
	c := cursor{p: data}
	name = c.string()
	n := c.uint32()
	if n > maxQueries {
		return "", nil, &optionError{repErrTooBig, "too many queries"}
	}
	for ; n > 0 && !c.bad; n-- {
		queries = append(queries, c.string())
	}
	if !c.whole() {
		return "", nil, invalid("the option's data does not add up")
	}
	if len(name) > maxName {
		return "", nil, &optionError{repErrTooBig, "the name is too long"}
	}
	return name, queries, nil
}

func (h *handshake) list(data []byte) error {
	if len(data) != 0 {
		return invalid("the option has no data")
	}
	names, err := h.c.server.Exports.List(h.c.ctx, h.c.peer)
	if err != nil {
		return h.refusal("", err)
	}
	for _, name := range names {
		p := make([]byte, 4, 4+len(name))
		be.PutUint32(p, uint32(len(name)))
		if err := h.reply(optList, repServer, append(p, name...)); err != nil {
			return err
		}
	}
	return h.reply(optList, repAck, nil)
}

// startTLS begins TLS. Everything that was agreed on before is void.
func (h *handshake) startTLS(data []byte) error {
	switch {
	case len(data) != 0:
		return invalid("the option has no data")
	case h.c.secure:
		return invalid("TLS has begun")
	case h.c.server.tls == nil:
		return &optionError{repErrPolicy, "this server has no TLS"}
	case h.in.Buffered() != 0:
		// What came in the clear must not be taken for what TLS protects.
		return violation("there is plain text after STARTTLS")
	}
	if err := h.reply(optStartTLS, repAck, nil); err != nil {
		return err
	}
	t := tls.Server(h.c.raw, h.c.server.tls)
	if err := t.HandshakeContext(h.c.ctx); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	state := t.ConnectionState()
	if state.Version < tls.VersionTLS13 || len(state.VerifiedChains) == 0 {
		return errors.New("TLS: the client has not proved who it is")
	}
	h.c.secured(t, state.PeerCertificates[0])
	h.in.Reset(t)
	h.structured, h.context = false, nil
	return nil
}

// refusal makes an error of Exports a reply, without telling its text.
func (h *handshake) refusal(name string, err error) error {
	h.c.server.refused(h.c, name, err)
	switch {
	case errors.Is(err, ErrUnknownExport):
		return &optionError{repErrUnknown, ErrUnknownExport.Error()}
	case errors.Is(err, ErrForbidden):
		return &optionError{repErrPolicy, ErrForbidden.Error()}
	case errors.Is(err, ErrBusy):
		return &optionError{repErrPolicy, ErrBusy.Error()}
	case errors.Is(err, ErrShutdown), errors.Is(err, context.Canceled):
		return &optionError{repErrShutdown, ErrShutdown.Error()}
	}
	return &optionError{repErrPolicy, "the export cannot be opened: the server's log says why"}
}

// open opens an export, to look at it or to serve it.
func (h *handshake) open(name string) (*Export, error) {
	e, err := h.c.server.Exports.Open(h.c.ctx, h.c.peer, name)
	if err == nil && (e == nil || e.Device == nil || e.Device.Size() < 0) {
		err = fmt.Errorf("export %q has no device", name)
	}
	if err != nil {
		return nil, h.refusal(name, err)
	}
	return e, nil
}

// flags are what an export can do.
func (h *handshake) flags(e *Export) uint16 {
	flags := uint16(hasFlags)
	if e.ReadOnly {
		flags |= flagReadOnly | canMultiConn
	} else {
		flags |= sendFlush | sendFUA | sendTrim | sendWriteZeroes | sendFastZero
	}
	if e.Shared {
		flags |= canMultiConn
	}
	if h.structured {
		flags |= sendDF
	}
	return flags
}

// session makes the session of an export, which it opens.
func (h *handshake) session(name string) (*session, error) {
	e, err := h.open(name)
	if err != nil {
		return nil, err
	}
	if err := h.c.server.attach(h.c, e); err != nil {
		return nil, err
	}
	s := &session{
		c: h.c, export: e, size: e.Device.Size(), structured: h.structured,
		status: h.structured && h.context != nil && *h.context == name,
		count:  h.c.server.counters(e.Name),
	}
	s.mapper, _ = e.Device.(Mapper)
	s.in = bufio.NewReaderSize(h.in, mostInput)
	s.account = newAccount(&h.c.server.pool)
	s.out = newSender(h.c.net, h.c.secure, h.c.server.Stall, s.account, h.c.end)
	return s, nil
}

func (h *handshake) exportName(data []byte) (*session, error) {
	name := string(data)
	if len(name) > maxName {
		return nil, violation("an export's name has %d bytes", len(name))
	}
	s, err := h.session(name)
	if refused, ok := errors.AsType[*optionError](err); ok {
		return nil, refusedByName{refused} // there is no other answer than the end
	}
	if err != nil {
		return nil, err
	}
	p := make([]byte, 10, 10+124)
	be.PutUint64(p, uint64(s.size))
	be.PutUint16(p[8:], h.flags(s.export))
	if !h.noZeroes {
		p = p[:10+124]
	}
	_, err = h.c.net.Write(p)
	return s, err
}

// refusedByName ends a connection that asked for an export which it does not get.
type refusedByName struct{ e *optionError }

func (r refusedByName) Error() string { return r.e.text }

// info does INFO and GO.
func (h *handshake) info(opt uint32, data []byte) (*session, error) {
	name, wanted, err := parseInfo(data)
	if err != nil {
		return nil, err
	}
	var (
		s *session
		e *Export
	)
	if opt == optGo {
		if s, err = h.session(name); err != nil {
			return nil, err
		}
		e = s.export
	} else {
		if e, err = h.open(name); err != nil {
			return nil, err
		}
		defer h.c.server.close(e)
	}
	var p [14]byte
	be.PutUint16(p[:], infoExport)
	be.PutUint64(p[2:], uint64(e.Device.Size()))
	be.PutUint16(p[10:], h.flags(e))
	if err := h.reply(opt, repInfo, p[:12]); err != nil {
		return nil, err
	}
	be.PutUint16(p[:], infoBlockSize)
	be.PutUint32(p[2:], 1)
	be.PutUint32(p[6:], 4096)
	be.PutUint32(p[10:], maxRequest)
	if err := h.reply(opt, repInfo, p[:14]); err != nil {
		return nil, err
	}
	told := map[uint16]bool{}
	for _, w := range wanted {
		text := e.Name
		if w == infoDescription {
			text = e.Description
		}
		if w != infoName && (w != infoDescription || text == "") || told[w] {
			continue
		}
		told[w] = true
		if err := h.reply(opt, repInfo, append(be.AppendUint16(nil, w), text[:min(len(text), maxName)]...)); err != nil {
			return nil, err
		}
	}
	return s, h.reply(opt, repAck, nil)
}

func (h *handshake) metaContext(opt uint32, data []byte) error {
	if !h.structured {
		return invalid("structured replies were not agreed on")
	}
	name, queries, err := parseContexts(data)
	if err != nil {
		return err
	}
	if opt == optSetMetaContext {
		h.context = nil
	}
	e, err := h.open(name)
	if err != nil {
		return err
	}
	defer h.c.server.close(e)
	_, ok := e.Device.(Mapper)
	asked := opt == optListMetaContext && len(queries) == 0
	for _, q := range queries {
		asked = asked || q == contextName || opt == optListMetaContext && q == contextNamespace
	}
	if ok && asked {
		p := be.AppendUint32(nil, contextID)
		if err := h.reply(opt, repMetaContext, append(p, contextName...)); err != nil {
			return err
		}
		if opt == optSetMetaContext {
			h.context = &name
		}
	}
	return h.reply(opt, repAck, nil)
}
