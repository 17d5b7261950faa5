// Enables search on pages opened from disk, where browsers do not start workers: the worker's script runs in a frame.
class FrameWorker extends EventTarget {
  constructor(url) {
    super()
    this.frame = document.createElement("iframe")
    this.frame.hidden = true
    document.body.appendChild(this.frame)
    const inner = this.frame.contentWindow
    inner.document.open()
    inner.document.write(`<html><body><script>
      postMessage = parent.postMessage.bind(parent)
      importScripts = (...urls) => urls.reduce((before, url) => before.then(() => new Promise(done => {
        const script = document.createElement("script")
        script.src = url
        script.onload = done
        document.body.appendChild(script)
      })), Promise.resolve())
    </scr` + `ipt><script src="${url}"></scr` + `ipt></body></html>`)
    inner.document.close()
    this.listener = event => {
      if (event.source !== inner) return
      this.dispatchEvent(new MessageEvent("message", { data: event.data }))
      if (this.onmessage) this.onmessage(event)
    }
    addEventListener("message", this.listener)
    this.ready = new Promise(done => { inner.onload = done })
  }
  postMessage(data) {
    // Not postMessage, which within the frame posts to this page.
    this.ready.then(() => this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })))
  }
  terminate() {
    removeEventListener("message", this.listener)
    this.frame.remove()
  }
}
// The theme recognises the frame by this name.
if (location.protocol === "file:") window.Worker = window.IFrameWorker = FrameWorker
