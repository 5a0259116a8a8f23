package enclave

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/writ-attestation/writ/verifier/rotation"
)

// maxAnswer bounds what the agent may answer; a token is about 2 KB.
const maxAnswer = 256 << 10

// An agent is the node's agent, asked over its Unix socket. It speaks HTTP/1.0,
// one connection per request: that is all a keeper needs, and it keeps a whole
// HTTP client out of the process that holds the kill switch.
type agent struct{ socket string }

// A request asks for a token, in the canonical form of evidence.Request.
type request struct {
	Audience  string `json:"audience"`
	Workload  string `json:"wl"`
	Execution string `json:"exec"`
	Key       string `json:"key"`
	Parent    string `json:"parent,omitempty"`
	Image     string `json:"image,omitempty"`
	Argv      string `json:"argv,omitempty"`
	Level     string `json:"level"`
	R         string `json:"r"`
	ID        string `json:"id"`
}

// An answer is the agent's, unverified: a token, or why there is none.
type answer struct {
	Token  string           `json:"token"`
	Title  string           `json:"title"`
	Detail string           `json:"detail"`
	Events []string         `json:"events"` // signed revocations behind a denial
	Keys   []rotation.Entry `json:"keys"`   // what the log proves of token keys
	status int
}

func (a *answer) why() string {
	why := strings.Trim(a.Title+": "+a.Detail, ": ")
	return fmt.Sprintf("the agent answered %d %.300s", a.status, why)
}

// lease asks for a token. An answer of any status is not an error.
func (a agent) lease(ctx context.Context, req request, keeper string) (*answer, error) {
	var out answer
	err := a.do(ctx, "POST /v1/lease", "Writ-Keeper: "+keeper+"\r\n", req, func(status int, body io.Reader) error {
		out.status = status
		err := json.NewDecoder(io.LimitReader(body, maxAnswer)).Decode(&out)
		if err != nil && status == 200 {
			return fmt.Errorf("reading the agent's answer: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &out, nil
}

// stopped reports how the work ended, in the keeper's signed words.
func (a agent) stopped(ctx context.Context, statement string) error {
	return a.do(ctx, "POST /v1/stops", "", map[string]string{"statement": statement}, func(status int, _ io.Reader) error {
		if status/100 != 2 {
			return fmt.Errorf("reporting the stop: the agent answered %d", status)
		}
		return nil
	})
}

// watch calls opened once the agent has answered, and pushed for each revocation
// (kind "revocation") and what the log proves of token keys (kind "keys"), both still
// unverified. It returns when the stream ends, which stops
// nothing. The agent learns by it for whom it has to speak if the keeper is
// killed before it can.
func (a agent) watch(ctx context.Context, execution string, level Level, opened func(), pushed func(kind, data string)) error {
	return a.do(ctx, "GET /v1/watch?exec="+execution+"&level="+level.String(), "", nil, func(status int, body io.Reader) error {
		if status != 200 {
			return fmt.Errorf("watching: the agent answered %d", status)
		}
		opened()
		lines := bufio.NewScanner(body)
		lines.Buffer(nil, maxAnswer)
		var event string
		for lines.Scan() {
			switch field, value, _ := strings.Cut(lines.Text(), ":"); field {
			case "event":
				event = strings.TrimSpace(value)
			case "data":
				pushed(event, strings.TrimSpace(value))
			case "":
				if lines.Text() == "" {
					event = ""
				}
			}
		}
		return errors.Join(lines.Err(), io.EOF)
	})
}

// do sends one request and hands the status and body of the answer to read.
// The connection ends with ctx.
func (a agent) do(ctx context.Context, what, header string, in any, read func(status int, body io.Reader) error) error {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", a.socket)
	if err != nil {
		return fmt.Errorf("reaching the agent: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()

	var body []byte
	if in != nil {
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("asking the agent: %w", err)
		}
		header += "Content-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(body)) + "\r\n"
	}
	head := what + " HTTP/1.0\r\nHost: agent\r\n" + header + "\r\n"
	if _, err := conn.Write(append([]byte(head), body...)); err != nil {
		return fmt.Errorf("asking the agent: %w", err)
	}
	r := bufio.NewReader(conn)
	status, err := readHead(r)
	if err != nil {
		return fmt.Errorf("reading the agent's answer: %w", err)
	}
	return read(status, r)
}

// readHead reads the status line and skips the header lines of an answer.
func readHead(r *bufio.Reader) (status int, err error) {
	for n := 0; n < 64; n++ {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		line = bytes.TrimRight(line, "\r\n")
		switch {
		case n == 0:
			f := bytes.Fields(line)
			if len(f) < 2 || !bytes.HasPrefix(f[0], []byte("HTTP/1.")) {
				return 0, fmt.Errorf("%.40q is no HTTP status line", line)
			}
			if status, err = strconv.Atoi(string(f[1])); err != nil {
				return 0, fmt.Errorf("%.40q is no HTTP status line", line)
			}
		case len(line) == 0:
			return status, nil
		}
	}
	return 0, errors.New("too many header lines")
}
