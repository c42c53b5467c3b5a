"""Where the shop is called."""

from django.urls import path

from examples.django_shop.shop import views

urlpatterns = [
    path("orders", views.place_order),
    path("orders/<int:order_id>", views.order),
    path("tasks/<str:task_id>", views.task),
]
