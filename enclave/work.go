package enclave

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// A program is what will be executed: found and opened once, digested, and
// later executed from the very descriptors that were digested, so that nobody
// can put another file at its path in between.
type program struct {
	argv        []string
	root        *os.File // below which its files are found; nil is this process's root
	file        *os.File
	interpreter *os.File // of a script, else nil
	option      string   // the one argument of a script's "#!" line
	stats       []unix.Stat_t
}

// Digest is what the token says of the work (claim wl), as "sha256:" and hex:
// the SHA-256 of an executable; of a script the SHA-256 over
//
//	"writ-script-v1" 0 SHA-256(interpreter) SHA-256(script) option
//
// because the same script under another interpreter is another program.
// Libraries and whatever the program loads later are not in it: that is IMA's
// part.
func Digest(name string) (string, error) {
	p, err := openProgram([]string{name})
	if err != nil {
		return "", err
	}
	defer p.close()
	return p.digest()
}

// openProgram finds argv[0] as execvp would. Its errors are Refusals that leave
// with 126 (found, but not executable) or 127 (not found).
func openProgram(argv []string) (*program, error) {
	path, err := exec.LookPath(argv[0])
	if err != nil && !errors.Is(err, exec.ErrDot) {
		return nil, notExecutable(argv[0], err)
	}
	p := &program{argv: argv}
	if err := p.find(path); err != nil {
		p.close()
		return nil, notExecutable(argv[0], err)
	}
	return p, nil
}

// find opens the program, and its interpreter if it has one.
func (p *program) find(path string) (err error) {
	if p.file, err = p.open(path); err != nil {
		return err
	}
	interpreter, option, isScript, err := shebang(p.file)
	if err != nil || !isScript {
		return err
	}
	p.option = option
	if p.interpreter, err = p.open(interpreter); err != nil {
		return fmt.Errorf("opening its interpreter: %w", err)
	}
	if _, _, nested, err := shebang(p.interpreter); err != nil || nested {
		return errors.Join(err, errors.New("its interpreter is a script too, which is not supported"))
	}
	return nil
}

// digest reads what was opened, see Digest. What changed since then is found by
// unchanged, later.
func (p *program) digest() (string, error) {
	sum, err := sumOf(p.file)
	if err != nil {
		return "", notExecutable(p.argv[0], err)
	}
	if p.interpreter != nil {
		under, err := sumOf(p.interpreter)
		if err != nil {
			return "", notExecutable(p.argv[0], err)
		}
		h := sha256.New()
		h.Write([]byte("writ-script-v1\x00"))
		h.Write(under)
		h.Write(sum)
		h.Write([]byte(p.option))
		sum = h.Sum(nil)
	}
	return "sha256:" + hex.EncodeToString(sum), nil
}

func sumOf(f *os.File) ([]byte, error) {
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}

// open opens an executable file.
func (p *program) open(path string) (*os.File, error) {
	f, err := p.openFile(path)
	if err != nil {
		return nil, err
	}
	st, err := p.stat(f)
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = &fs.PathError{Op: "execute", Path: path, Err: unix.EACCES}
	}
	if err == nil && p.root == nil {
		err = unix.Faccessat(unix.AT_FDCWD, path, unix.X_OK, unix.AT_EACCESS)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	p.stats = append(p.stats, st)
	return f, nil
}

func (p *program) openFile(path string) (*os.File, error) {
	if p.root != nil {
		return openIn(p.root, path)
	}
	return os.Open(path)
}

func (p *program) stat(f *os.File) (st unix.Stat_t, err error) {
	return st, unix.Fstat(int(f.Fd()), &st)
}

// unchanged reports an error if a file was written to since it was digested.
func (p *program) unchanged() error {
	for i, f := range []*os.File{p.file, p.interpreter} {
		if f == nil {
			continue
		}
		was := p.stats[i]
		st, err := p.stat(f)
		if err != nil || st.Ctim != was.Ctim || st.Size != was.Size {
			return fmt.Errorf("looking at %s again: it changed after it was digested", f.Name())
		}
	}
	return nil
}

func (p *program) close() {
	for _, f := range []*os.File{p.file, p.interpreter} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// shebang reads the first line of a script as execve(2) does: at most 255
// bytes, an absolute interpreter and at most one argument.
func shebang(f *os.File) (interpreter, option string, ok bool, err error) {
	var b [256]byte
	n, err := f.ReadAt(b[:], 0)
	if err != nil && err != io.EOF {
		return "", "", false, err
	}
	line, found := bytes.CutPrefix(b[:n], []byte("#!"))
	if !found {
		return "", "", false, nil
	}
	line, _, whole := bytes.Cut(line, []byte{'\n'})
	if !whole && n == len(b) {
		return "", "", false, fmt.Errorf("reading its #! line: longer than %d bytes: %w", len(b)-1, unix.ENOEXEC)
	}
	interpreter = strings.Trim(string(line), " \t")
	if i := strings.IndexAny(interpreter, " \t"); i >= 0 {
		interpreter, option = interpreter[:i], strings.TrimLeft(interpreter[i:], " \t")
	}
	if !filepath.IsAbs(interpreter) {
		return "", "", false, fmt.Errorf("reading its #! line: no absolute path: %w", unix.ENOEXEC)
	}
	return interpreter, option, true, nil
}
