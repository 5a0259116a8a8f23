// Package nri has containerd's own side of the Node Resource Interface ask writ-nri
// about containers that a real runc makes.
package nri
