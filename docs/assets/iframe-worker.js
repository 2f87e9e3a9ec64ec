// From file:// browsers start no workers, and search is one: its script runs in a hidden frame instead.
if (location.protocol === "file:")
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      this.ready = new Promise(done => {
        frame.onload = () => {
          frame.onload = null
          const scope = frame.contentWindow, script = scope.document.createElement("script")
          scope.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
          script.onload = () => done(scope)
          script.onerror = () => this.dispatchEvent(new ErrorEvent("error", { message: `cannot load ${url}` }))
          script.src = url
          scope.document.body.appendChild(script)
        }
      })
      document.body.appendChild(frame)
    }

    postMessage(data) {
      this.ready.then(scope => scope.dispatchEvent(new MessageEvent("message", { data })))
    }
  }
