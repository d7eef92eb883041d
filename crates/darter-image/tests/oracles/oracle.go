// What containerd makes of a layer, and what its reader of EROFS reads of one, for the tests beside this file.
package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sort"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/erofs/go-erofs"
)

func main() {
	var err error
	switch os.Args[1] {
	case "apply":
		err = apply(os.Args[2], os.Args[3], os.Args[4:])
	case "read":
		err = read(os.Args[2])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// Unpacks a tar as the overlayfs snapshotter's differ does it, above these layers, the nearest first.
func apply(tar, dir string, parents []string) error {
	file, err := os.Open(tar)
	if err != nil {
		return err
	}
	_, err = archive.Apply(context.Background(), dir, file, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout), archive.WithParents(parents))
	return err
}

// Prints a line for everything in a file system.
func read(image string) error {
	file, err := os.Open(image)
	if err != nil {
		return err
	}
	root, err := erofs.Open(file)
	if err != nil {
		return err
	}
	return fs.WalkDir(root, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
		info, err := entry.Info()
		if err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
		stat, ok := info.Sys().(*erofs.Stat)
		if !ok {
			return fmt.Errorf("%q: no attributes", path)
		}
		line := fmt.Sprintf("%x %d:%d %d.%d %04o", path, stat.UID, stat.GID, stat.Mtime, stat.MtimeNs, uint32(info.Mode().Perm()))
		if info.Mode().IsRegular() {
			content, err := root.Open(path)
			if err != nil {
				return fmt.Errorf("%q: %w", path, err)
			}
			defer content.Close()
			hash := sha256.New()
			length, err := io.Copy(hash, content)
			if err != nil {
				return fmt.Errorf("%q: %w", path, err)
			}
			line += fmt.Sprintf(" size %d sha256:%x", length, hash.Sum(nil)[:6])
		}
		names := []string{}
		for name := range stat.Xattrs {
			names = append(names, name)
		}
		sort.Strings(names)
		for _, name := range names {
			line += fmt.Sprintf(" %x=%x", name, stat.Xattrs[name])
		}
		fmt.Println(line)
		return nil
	})
}
