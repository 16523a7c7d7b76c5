"""The playground's address. What answers there is Gradio's app, which stands before Django (`mount`)."""

from django.urls import path

from webapp.playground.views import elsewhere

urlpatterns = [path("playground/", elsewhere, name="playground")]
